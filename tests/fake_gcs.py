"""Google Cloud Storage in memory, on loopback, as four clients speak to it.

What gcsfs, google-cloud-storage, TensorStore and google-cloud-cpp (inside
ArrayRecord) ask of the JSON API, and no more; a request that is not known is
answered 501 and kept in `Server.unknown`, so that a test can show it. Of the
real thing it keeps what a program may lean on: an object appears whole or not
at all, each write has a new generation, and preconditions are obeyed.
"""

import dataclasses
import email
import http.server
import itertools
import json
import re
import sys
import threading
import urllib.parse

_OBJECT = re.compile(r'/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)')
_COPY = re.compile(
  _OBJECT.pattern + r'/rewriteTo/b/(?P<to>[^/]+)/o/(?P<new>.+)'
)
_MOVE = re.compile(_OBJECT.pattern + r'/moveTo/o/(?P<new>.+)')
_LIST = re.compile(r'/b/(?P<bucket>[^/]+)/o')
_BUCKET = re.compile(r'/b/(?P<bucket>[^/]+)')
_PAGE = 50  # Fewer than the real thing's 1000, so that pages are tested.


@dataclasses.dataclass(frozen=True)
class Object:
  """What a name stands for."""

  data: bytes
  generation: int


class RefusalError(Exception):
  """An answer that is no success: a status, and words."""


class _Http(http.server.ThreadingHTTPServer):
  """Without a word about clients that hang up, as gcsfs does on purpose."""

  daemon_threads = True
  # Of connections that wait to be taken: with the default of 5, of dozens at
  # once most are dropped by the system, and come again after seconds, or never.
  request_queue_size = 1024

  def handle_error(self, request, client_address):
    if not isinstance(sys.exc_info()[1], ConnectionError):
      super().handle_error(request, client_address)


class Server:
  """The storage; a context manager that serves it while it is open.

  Attributes:
    buckets: {bucket: {name: Object}}.
    denied: pairs of a right and a bucket that are answered with 403; a right
      is 'list', 'read', 'write', 'delete' or 'bucket'.
    unknown: requests that were not understood.
    env: environment variables that lead all clients here.
  """

  def __init__(self, *buckets: str):
    self.buckets = {bucket: {} for bucket in buckets}
    self.denied = set()
    self.unknown = []
    self.lock = threading.Lock()
    self.uploads = {}
    self.numbers = itertools.count(1)
    handler = type('Handler', (_Handler,), {'storage': self})
    self._http = _Http(('127.0.0.1', 0), handler)
    self.url = f'http://127.0.0.1:{self._http.server_address[1]}'
    self.env = environment(self.url)

  def __enter__(self):
    threading.Thread(target=self._http.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._http.shutdown()
    self._http.server_close()

  def names(self, bucket: str, prefix: str = '') -> list[str]:
    """Names of the objects of a bucket, sorted."""
    with self.lock:
      return sorted(n for n in self.buckets[bucket] if n.startswith(prefix))

  def upload(self, folder, bucket: str, prefix: str):
    """Puts the files of a local folder into a bucket."""
    for file in folder.rglob('*'):
      if file.is_file():
        name = f'{prefix}/{file.relative_to(folder)}'
        self.put(bucket, name, file.read_bytes())

  def download(self, bucket: str, prefix: str, folder):
    """Writes the objects below a prefix into a local folder."""
    for name in self.names(bucket, f'{prefix}/'):
      file = folder / name.removeprefix(f'{prefix}/')
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(self.buckets[bucket][name].data)

  def put(self, bucket, name, data, wanted=None):
    """Writes an object; `wanted` is the generation to be replaced, if any."""
    with self.lock:
      if bucket not in self.buckets:
        raise RefusalError(404, 'The specified bucket does not exist.')
      found = self.buckets[bucket].get(name)
      if wanted is not None and wanted != (found.generation if found else 0):
        raise RefusalError(412, 'conditionNotMet')
      self.buckets[bucket][name] = Object(bytes(data), next(self.numbers))
      return self.buckets[bucket][name]


def environment(url: str) -> dict[str, str]:
  """Environment variables that lead all clients to a storage at `url`."""
  return {
    'STORAGE_EMULATOR_HOST': url,  # gcsfs and google-cloud-storage
    'TENSORSTORE_GCS_HTTP_URL': url,
    'CLOUD_STORAGE_EMULATOR_ENDPOINT': url,  # google-cloud-cpp
    # Nobody is to look for credentials on the network.
    'NO_GCE_CHECK': 'true',
    'GCE_METADATA_ROOT': '127.0.0.1:1',
    'GCE_METADATA_HOST': '127.0.0.1:1',
    'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'token',  # TensorStore
  }


class _Handler(http.server.BaseHTTPRequestHandler):
  """One connection."""

  protocol_version = 'HTTP/1.1'
  disable_nagle_algorithm = True
  storage: Server

  def log_message(self, *_):
    pass

  def _serve(self):
    url = urllib.parse.urlsplit(self.path)
    self._query = dict(urllib.parse.parse_qsl(url.query))
    # Read before anything is refused: the connection is used again.
    self._body = self._read_body()
    path = re.sub(r'^(/upload|/download)?(/storage/v1)?', '', url.path)
    try:
      self._route(path, url.path.startswith('/upload/'))
    except RefusalError as refusal:
      status, words = refusal.args
      error = {'code': status, 'message': words, 'errors': []}
      self._answer(status, json.dumps({'error': error}).encode())

  do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

  def _read_body(self):
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    parts = []
    while size := int(self.rfile.readline(), 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(parts)

  def _route(self, path, upload):
    call = self.command, upload
    unquote = urllib.parse.unquote
    if match := _COPY.fullmatch(path) or _MOVE.fullmatch(path):
      words = {key: unquote(word) for key, word in match.groupdict().items()}
      self._copy(**words)
    elif (match := _OBJECT.fullmatch(path)) and not upload:
      target = unquote(match['bucket']), unquote(match['name'])
      if self.command == 'DELETE':
        self._delete(*target)
      else:
        self._get(*target, 'media' == self._query.get('alt'))
    elif (match := _LIST.fullmatch(path)) and call == ('GET', False):
      self._list(match['bucket'])
    elif match and upload:
      self._upload(match['bucket'])
    elif (match := _BUCKET.fullmatch(path)) and call == ('GET', False):
      self._check('bucket', match['bucket'])
      self._json({'kind': 'storage#bucket', 'name': match['bucket']})
    elif (match := re.fullmatch(r'/([^/]+)/(.+)', path)) and self.command in (
      *('GET', 'HEAD'),
    ):
      self._get(unquote(match[1]), unquote(match[2]), True)  # As XML's API has.
    else:
      self.storage.unknown.append(f'{self.command} {self.path}')
      raise RefusalError(501, f'not known here: {self.command} {self.path}')

  def _check(self, right, bucket):
    """The objects of a bucket, where it is there and the right is given."""
    if (right, bucket) in self.storage.denied:
      raise RefusalError(403, f'no permission to {right} {bucket}')
    if bucket not in self.storage.buckets:
      raise RefusalError(404, 'The specified bucket does not exist.')
    return self.storage.buckets[bucket]

  def _find(self, bucket, name, right='read'):
    found = self._check(right, bucket).get(name)
    if found is None:
      # Who may not list is not told what is not there.
      self._check('list', bucket)
      raise RefusalError(404, f'No such object: {bucket}/{name}')
    generation = str(found.generation)
    if self._query.get('ifGenerationNotMatch') == generation:
      raise RefusalError(304, '')
    for key in ('ifGenerationMatch', 'generation'):
      if self._query.get(key, generation) != generation:
        raise RefusalError(412 if key[0] == 'i' else 404, 'another generation')
    return found

  def _get(self, bucket, name, media):
    found = self._find(bucket, name)
    if not media:
      self._json(_describe(bucket, name, found))
      return
    data, status, size = found.data, 200, len(found.data)
    headers = {
      'x-goog-generation': found.generation,
      'x-goog-stored-content-length': size,
    }
    if asked := self.headers.get('Range'):
      first, last = re.fullmatch(r'bytes=(\d*)-(\d*)', asked).groups()
      start = int(first) if first else max(0, size - int(last))
      stop = min(int(last) + 1, size) if first and last else size
      if start >= size:
        raise RefusalError(416, 'Range not satisfiable')
      data, status = data[start:stop], 206
      headers['Content-Range'] = f'bytes {start}-{stop - 1}/{size}'
    self._answer(status, data, **headers)

  def _list(self, bucket):
    objects = self._check('list', bucket)
    ask = self._query.get
    prefix, delimiter = ask('prefix', ''), ask('delimiter')
    with self.storage.lock:
      names = sorted(n for n in objects if n.startswith(prefix))
    entries = {}  # A prefix is one entry, whatever lies below it.
    for name in names:
      if ask('startOffset', '') <= name and not (
        ask('endOffset') and name >= ask('endOffset')
      ):
        rest, cut, _ = name[len(prefix) :].partition(delimiter or '\0')
        entries[prefix + rest + cut if cut else name] = bool(cut)
    page = [e for e in sorted(entries) if e > ask('pageToken', '')]
    size = min(int(ask('maxResults', _PAGE)), _PAGE)
    answer = {'kind': 'storage#objects', 'items': [], 'prefixes': []}
    for entry in page[:size]:
      if entries[entry]:
        answer['prefixes'].append(entry)
      elif entry in objects:
        answer['items'].append(_describe(bucket, entry, objects[entry]))
    if len(page) > size:
      answer['nextPageToken'] = page[size - 1]
    self._json(answer)

  def _delete(self, bucket, name):
    self._find(bucket, name, 'delete')
    with self.storage.lock:
      self.storage.buckets[bucket].pop(name, None)
    self._answer(204, b'')

  def _copy(self, bucket, name, new, to=None):
    found = self._find(bucket, name)
    self._check('write', to or bucket)
    made = self.storage.put(to or bucket, new, found.data)
    resource = _describe(to or bucket, new, made)
    if to is None:
      self._delete_quietly(bucket, name)
      self._json(resource)
    else:
      self._json({'done': True, 'resource': resource})

  def _delete_quietly(self, bucket, name):
    with self.storage.lock:
      self.storage.buckets[bucket].pop(name, None)

  def _upload(self, bucket):
    self._check('write', bucket)
    kind, data = self._query.get('uploadType'), self._body
    wanted = self._query.get('ifGenerationMatch')
    name = self._query.get('name')
    if 'upload_id' in self._query:
      self._go_on(self._query['upload_id'])
      return
    if kind == 'resumable':
      name = name or json.loads(data)['name']
      number = str(next(self.storage.numbers))
      self.storage.uploads[number] = (bucket, name, wanted, bytearray())
      place = f'{self.storage.url}/upload/storage/v1/b/{bucket}/o'
      self._answer(200, b'', Location=f'{place}?upload_id={number}')
      return
    if kind == 'multipart':
      head = f'Content-Type: {self.headers["Content-Type"]}\n\n'.encode()
      about, _ = email.message_from_bytes(head + data).get_payload()
      name = name or json.loads(about.get_payload())['name']
      data = _second_part(data)
    self._written(bucket, name, data, wanted)

  def _go_on(self, number):
    """Takes a chunk of a resumable upload; the last one makes the object."""
    bucket, name, wanted, data = self.storage.uploads[number]
    data += self._body
    if self.headers.get('Content-Range', '').endswith('/*'):
      self._answer(308, b'', Range=f'bytes=0-{len(data) - 1}')
    else:
      del self.storage.uploads[number]
      self._written(bucket, name, data, wanted)

  def _written(self, bucket, name, data, wanted):
    wanted = None if wanted is None else int(wanted)
    made = self.storage.put(bucket, name, data, wanted)
    self._json(_describe(bucket, name, made))

  def _json(self, value):
    body = json.dumps(value).encode()
    self._answer(200, body, **{'Content-Type': 'application/json'})

  def _answer(self, status, body, **headers):
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key, str(value))
    bare = status in (204, 304)  # Which have no body, by HTTP.
    if not bare:
      self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if not bare and self.command != 'HEAD':
      self.wfile.write(body)


def _second_part(body):
  """The content of a multipart upload, byte for byte."""
  line = re.match(rb'--[^\r\n]+', body)[0]
  part = body.split(line)[2]
  end = re.search(rb'\r?\n\r?\n', part).end()
  # The line break before the boundary belongs to the boundary.
  return re.sub(rb'\r?\n\Z', b'', part[end:])


def _describe(bucket, name, found):
  return {
    'kind': 'storage#object',
    'bucket': bucket,
    'name': name,
    'generation': str(found.generation),
    'metageneration': '1',
    'size': str(len(found.data)),
    'contentType': 'application/octet-stream',
    'timeCreated': '2020-01-01T00:00:00.000Z',
    'updated': '2020-01-01T00:00:00.000Z',
  }
