"""Writing the store of text embeddings (its form: `store.py`).

Which captions a shard holds, and what is computed of them, depends on the
captions alone. So a shard has the same bytes whoever writes it: each host takes
its share of them, and a run that was killed goes on with those that are not
finished. Shards (`part.py`) get their names when they are whole, and the
manifest comes last of all.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import logging
import math
import time

import numpy as np

from imagen_jax import storage
from imagen_jax.text import batches as batches_lib
from imagen_jax.text import codec
from imagen_jax.text import files
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import output
from imagen_jax.text import part as part_lib
from imagen_jax.text import shapes as shapes_lib
from imagen_jax.text import spool as spool_lib
from imagen_jax.text import store as store_lib

# Bytes of a shard, at most about: large enough that 860 million captions at T5
# XXL's width stay near 10^5 files, small enough to be held while it is written.
_SHARD_BYTES = 2**30
# Captions, about, that are taken out of the spool at once.
_GROUP_CAPTIONS = 2**18
# Between looks at what other hosts have written; a thousand hosts look.
_POLL_SECONDS = 0.5
_POLL_SECONDS_BUCKET = 10.0
# Between lines that say what is waited for: a host that has died is waited for
# without end, and a person is to learn which.
_SAY_SECONDS = 60.0


@dataclasses.dataclass
class Progress:
  """What this host has done, for a progress bar.

  Attributes:
    stage: 'scan' or 'encode'.
    total: records to scan, or captions to encode (about), of this host.
    done: of those, with what was found finished.
    encoded: captions encoded.
    tokens: real ones among those computed.
    computed: tokens computed, padding included.
    seconds: since the stage began.
  """

  stage: str
  total: int
  done: int = 0
  encoded: int = 0
  tokens: int = 0
  computed: int = 0
  seconds: float = 0.0


def write(
  path: str,
  sources: list[spool_lib.Source],
  encoder,
  identity: dict,
  *,
  rows: int = 16,
  shapes: list[int] | None = None,
  shard_bytes: int = _SHARD_BYTES,
  run_records: int = spool_lib.RUN_RECORDS,
  host: tuple[int, int] = (0, 1),
  barrier: Callable[[], None] = lambda: None,
  report: Callable[[Progress], None] = lambda progress: None,
) -> dict:
  """Encodes the captions of sources that a store lacks, as a new part of it.

  Memory: one run of the scan or, later, the captions of one group of shards,
  and one shard of embeddings; see `spool`.

  Args:
    path: the store's folder, or gs://...
    sources: of captions; what hosts together encode.
    encoder: has `tokenizer`, `encode_tokens` and `row_multiple`, as
      `encoder.TextEncoder` has; or a function that makes one, which is called
      where there is something to encode.
    identity: of the encoder (`identity.of`).
    rows: captions computed at once by each of `encoder.row_multiple` devices.
    shapes: lengths that captions are padded to; None takes `shapes.lengths`.
    shard_bytes: about how large a shard is at most.
    run_records: records that are scanned at once.
    host: this host's number and the number of hosts; all see the same folder.
    barrier: waits for all hosts. It is called when the others are seen to be
      done, so that it waits for moments only.
    report: is told of the progress.

  Returns:
    The store's manifest.

  Raises:
    ValueError: where the store is of another encoder, or cannot be written
      there; an embedding is not finite; or the sources have no captions.
  """
  path = files.resolve(path, output.FIELD)
  manifest = manifest_lib.read(path)
  if manifest is None:
    manifest = {
      'format': manifest_lib.FORMAT,
      'identity': identity,
      'sources': [],
      'num_captions': 0,
      'parts': [],
    }
  manifest_lib.check_identity(path, manifest, identity)
  known = {source['fingerprint'] for source in manifest['sources']}
  sources = [s for s in sources if s.fingerprint not in known]
  if not sources:
    # Done, by a run that may have been killed before it had cleaned up.
    if host[0] == 0:
      _clean(path, manifest)
    barrier()
    return manifest

  job = _Job(path, manifest, sources, identity, rows, shapes, run_records)
  job.scan(encoder, host, report)
  _wait(lambda: job.lacking_runs(host[1]), path)
  job.plan(shard_bytes)
  if job.part.num_shards:
    job.encode(encoder, host, report)
    _wait(lambda: job.lacking_hosts(host[1]), path)
  barrier()
  # From here on no other host looks at the spool or at the shards' notes.
  if host[0] == 0:
    job.finish()
  barrier()
  return manifest_lib.read(path)


def _wait(lacking, path):
  """Waits for what other hosts write: until `lacking()`, in words, is ''."""
  bucket = storage.is_bucket(path)
  said = time.monotonic()
  while words := lacking():
    if time.monotonic() - said >= _SAY_SECONDS:
      logging.warning('%s: waiting for %s', path, words)
      said = time.monotonic()
    time.sleep(_POLL_SECONDS_BUCKET if bucket else _POLL_SECONDS)


def _clean(path, manifest):
  """Removes what has done its work, and what killed runs have left."""
  output.remove_folders(path, 'spool-')
  for number, part in enumerate(manifest['parts']):
    part_lib.clean(path, number, part['shards'])


class _Job:
  """The writing of one part."""

  def __init__(
    self, path, manifest, sources, identity, rows, shapes, run_records
  ):
    self._path = path
    self._manifest = manifest
    self._identity = identity
    self._rows = rows
    self._shapes = shapes or shapes_lib.lengths(identity['max_length'])
    self._sources = [
      {'name': s.name, 'fingerprint': s.fingerprint, 'records': len(s)}
      for s in sources
    ]
    self._encoder = None
    said = [manifest, identity, self._sources, rows, self._shapes, run_records]
    self._plan = _hash(said)
    self._folder = f'{path}/spool-{self._plan[:16]}'
    self.spool = spool_lib.Spool(self._folder, sources, run_records)
    self.part = None

  def _make(self, encoder):
    if self._encoder is None:
      made = hasattr(encoder, 'encode_tokens')
      self._encoder = encoder if made else encoder()
    return self._encoder

  def scan(self, encoder, host, report):
    """Writes this host's share of the runs."""
    # Whether one may write here is known before anything is computed.
    name = f'{self._folder}/host-{host[0]:06d}.json'
    output.write_json(name, {'plan': self._plan})
    lacking = lambda keys: np.ones(len(keys), bool)
    if self._manifest['parts']:
      store = store_lib.EmbeddingStore(self._path)
      lacking = lambda keys: ~store.has(keys)
    progress = Progress('scan', self.spool.num_records(host))
    start = time.monotonic()

    def tell(count):
      progress.done += count
      progress.seconds = time.monotonic() - start
      report(progress)

    self.spool.scan(
      host,
      self._make(encoder).tokenizer,
      self._identity['max_length'],
      lacking,
      tell,
    )

  def plan(self, shard_bytes):
    """Settles the number of shards, by what all hosts have scanned."""
    counts = self.spool.counts()
    self._counts = counts
    by_length = np.atleast_1d(counts['tokens'])
    self._num_captions = int(by_length.sum())
    tokens = int((by_length * np.arange(len(by_length))).sum())
    width = codec.token_bytes(
      self._identity['embed_dim'], self._identity['stored_dtype']
    )
    num_shards = math.ceil(tokens * width / shard_bytes)
    self._plan = _hash([self._plan, num_shards])
    number = len(self._manifest['parts'])
    self.part = part_lib.Part(self._path, number, num_shards, self._plan)
    if not num_shards and not self._manifest['parts']:
      raise ValueError(
        'the tasks of data.tasks have no captions; accepted: at least one'
      )

  def _done(self, host, num_hosts):
    """Returns the name of the file that says that a host is done."""
    return f'done-{self._plan[:16]}-{host:06d}-of-{num_hosts:06d}.json'

  def lacking_runs(self, num_hosts):
    """Returns which runs are not there yet, in words; '' where all are."""
    missing = self.spool.missing()
    if not missing:
      return ''
    return (
      f'{len(missing)} of {self.spool.num_runs} runs of the scan, the first '
      f'of host {missing[0] % num_hosts} of {num_hosts}'
    )

  def lacking_hosts(self, num_hosts):
    """Returns which hosts' shards are not there yet, in words, or ''."""
    names = set(files.names(self._folder, 'done-', output.FIELD))
    missing = [
      host
      for host in range(num_hosts)
      if self._done(host, num_hosts) not in names
    ]
    if not missing:
      return ''
    return (
      f'the shards of {len(missing)} of {num_hosts} hosts, the first of host '
      f'{missing[0]}'
    )

  def encode(self, encoder, host, report):
    """Writes this host's share of the shards, then says so to the others."""
    num_shards = self.part.num_shards
    done = f'{self._folder}/{self._done(*host)}'
    output.remove(done)  # Of a run that was stopped later than here.
    # Neighbours, so that many can be taken out of the spool together.
    first, last = (num_shards * n // host[1] for n in (host[0], host[0] + 1))
    share = (last - first) / num_shards
    progress = Progress('encode', round(self._num_captions * share))
    self._start = time.monotonic()
    group = max(1, num_shards * _GROUP_CAPTIONS // self._num_captions)
    for start in range(first, last, group):
      stop = min(start + group, last)
      self._encode_group(start, stop, encoder, progress, report)
    output.write_json(done, [first, last])

  def _encode_group(self, start, stop, encoder, progress, report):
    notes = self.part.notes(start, stop)
    if not all(notes):
      num_shards = self.part.num_shards
      keys, captions = self.spool.read(start, stop, num_shards)
      shards = manifest_lib.shards_of(keys, num_shards)
      bounds = np.searchsorted(shards, np.arange(start, stop + 1)).tolist()
    for number, note in enumerate(notes):
      if note:
        progress.done += note['captions']
        report(progress)
        continue
      part = slice(*bounds[number : number + 2])
      records = [b''] * len(keys[part])
      batches = batches_lib.Batches(
        self._make(encoder),
        captions[part],
        self._identity['max_length'],
        self._rows,
      )
      for positions, embeds, computed in batches.run(self._shapes):
        for position, embed in zip(positions, embeds, strict=True):
          records[position] = batches_lib.record(
            keys[part][position],
            embed,
            captions[part][position],
            self._identity['stored_dtype'],
          )
        progress.done += len(positions)
        progress.encoded += len(positions)
        progress.tokens += sum(map(len, embeds))
        progress.computed += computed
        progress.seconds = time.monotonic() - self._start
        report(progress)
      tokens = int(batches.lengths.sum())
      self.part.write(
        start + number, keys[part], records, tokens, batches.num_cut
      )

  def finish(self):
    """Writes the manifest with the new part; the shards' notes go into it."""
    notes = self.part.finished()
    manifest = manifest_lib.extended(
      self._manifest, self._sources, self._counts, notes, self._rows
    )
    output.write_json(f'{self._path}/{manifest_lib.MANIFEST}', manifest)
    _clean(self._path, manifest)


def _hash(value) -> str:
  """Returns a hash of what JSON can hold."""
  said = json.dumps(value, sort_keys=True).encode()
  return hashlib.sha256(said).hexdigest()
