"""Shards as files, read by spans of bytes.

An address is a local path, or that of a bucket in any scheme that fsspec knows
(gs://..., s3://... with the package s3fs). Nothing is kept open: a span is one
`pread`, or one ranged request.
"""

import contextlib
import dataclasses
import functools
import os
import tempfile
import uuid

import fsspec

from imagen_jax import storage  # Sets up gcsfs before its first use.

# Bytes that a scan asks for at once. Locally it hops from header to header; of
# a bucket it takes all, since a request costs what a megabyte does.
_LOCAL_CHUNK = 2**14
_BUCKET_CHUNK = 2**23

# Bytes held while a file of a bucket is copied here.
_COPIED = 2**25

# Seconds that a bucket has for a read, after which it is asked again as one
# that fails is (`storage.WAITS`); and for any other request, such as one that
# writes 50 MB over a slow line. File layers would wait for ever.
_PATIENCE = 60
_PATIENCE_OTHERS = 300
_PATIENCE_CONNECT = 20

# What stands for a file's contents, by the names that file layers give it: a
# bucket's generation or hash before any time.
_TAGS = ('generation', 'ETag', 'etag', 'mtime', 'LastModified', 'created')


class ChangedError(OSError):
  """A file that is not the one that was indexed."""


@dataclasses.dataclass(frozen=True)
class File:
  """A shard.

  Attributes:
    path: its address.
    size: in bytes.
    tag: changes with its contents: the time of the last change, or what a
      bucket gives as generation or hash.
  """

  path: str
  size: int
  tag: str

  def read(self, start: int, stop: int) -> bytes:
    """Returns the bytes `start` to `stop` - 1; fewer where the file ends.

    Raises:
      FileNotFoundError: where it is gone.
      ChangedError: where a local file has changed.
      OSError: where storage does not give them.
    """
    if is_remote(self.path):
      return _read_remote(self.path, start, min(stop, self.size))
    file = os.open(self.path, os.O_RDONLY)
    try:
      status = os.fstat(file)
      if (status.st_size, str(status.st_mtime_ns)) != (self.size, self.tag):
        raise ChangedError(f'{self.path} has changed since it was indexed')
      parts = []
      # Linux gives at most 2 GiB at once.
      with _named(self.path):
        while start < stop and (part := os.pread(file, stop - start, start)):
          parts.append(part)
          start += len(part)
      return parts[0] if len(parts) == 1 else b''.join(parts)
    finally:
      os.close(file)


class Stream:
  """A file read from front to back, a bounded part of it in memory."""

  def __init__(self, file: File):
    self._file = file
    self._chunk = _BUCKET_CHUNK if is_remote(file.path) else _LOCAL_CHUNK
    self._start, self._held = 0, b''

  def read(self, start: int, length: int) -> bytes:
    """Returns `length` bytes from `start`; fewer where the file ends."""
    inside = start - self._start
    if inside < 0 or inside + length > len(self._held):
      stop = start + max(length, self._chunk)
      self._start, self._held = start, self._file.read(start, stop)
      inside = 0
    return self._held[inside : inside + length]


def is_remote(path: str) -> bool:
  """Returns whether a path is in a bucket, of any kind."""
  return '://' in path


def join(folder: str, name: str) -> str:
  """Returns the address of what has `name` in a folder."""
  return f'{folder.rstrip("/")}/{name}' if folder else name


def names(folder: str, field: str) -> set[str]:
  """Returns the names of what is in a folder; none where there is none.

  Raises:
    ValueError: where a bucket does not tell, or it is no folder.
  """
  try:
    if is_remote(folder):
      listed = filesystem(folder).ls(folder, detail=False)
      return {path.rstrip('/').rpartition('/')[2] for path in listed}
    return set(os.listdir(folder))
  except FileNotFoundError:
    return set()
  except Exception as error:  # Each file layer raises errors of its own.
    raise storage.refusal(field, folder, 'listed', error) from error


def stat(path: str, field: str) -> File | None:
  """Returns one file, or None where there is none.

  Raises:
    ValueError: where a bucket does not tell.
  """
  if is_remote(path):
    try:
      info = filesystem(path).info(path)
    except FileNotFoundError:
      return None
    except Exception as error:  # Each file layer raises errors of its own.
      raise storage.refusal(field, path, 'read', error) from error
    return of_info(path, info) if info['type'] == 'file' else None
  try:
    return of_status(path, os.stat(path)) if os.path.isfile(path) else None
  except FileNotFoundError:
    return None


def read_whole(path: str, limit: int) -> bytes:
  """Returns what a file holds, or its first `limit` + 1 bytes.

  Raises:
    FileNotFoundError: where there is no such file.
    OSError: where storage does not give it.
  """
  if is_remote(path):
    return _read_remote(path, 0, limit + 1)
  # Not to wait for one that never ends, or never begins.
  if os.path.exists(path) and not os.path.isfile(path):
    raise FileNotFoundError(path)
  with open(path, 'rb') as file:
    with _named(path):
      return file.read(limit + 1)


@contextlib.contextmanager
def _named(path):
  """Has errors of reading name the file, which only those of opening do."""
  try:
    yield
  except OSError as error:
    error.filename = path
    raise


def write(path: str, data: bytes, field: str) -> None:
  """Writes a file: whole, or not at all.

  Raises:
    ValueError: where it cannot be written.
  """
  try:
    if is_remote(path):
      filesystem(path).pipe_file(path, data)
      return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = f'{path}.tmp-{uuid.uuid4().hex}'
    with open(beside, 'wb') as file:
      file.write(data)
    os.replace(beside, path)
  except Exception as error:  # Each file layer raises errors of its own.
    raise storage.refusal(field, path, 'written', error) from error


def upload(local: str, path: str, field: str) -> None:
  """Moves a local file to an address: whole, or not at all.

  Raises:
    ValueError: where it cannot be written.
  """
  try:
    if is_remote(path):
      filesystem(path).put_file(local, path)
      os.remove(local)
    else:
      os.replace(local, path)
  except Exception as error:  # Each file layer raises errors of its own.
    raise storage.refusal(field, path, 'written', error) from error


def remove_folder(path: str) -> None:
  """Removes a folder and all in it, if it is there."""
  layer = filesystem(path)
  if layer.exists(path):
    layer.rm(path, recursive=True)


def local_copy(file: File) -> str:
  """Returns the path of a file, copied to a temporary one if in a bucket.

  A copy is for the caller to remove; it is made a part at a time.
  """
  if not is_remote(file.path):
    return file.path
  handle, path = tempfile.mkstemp()
  with open(handle, 'wb') as copy:
    for start in range(0, file.size, _COPIED):
      copy.write(file.read(start, start + _COPIED))
  return path


@functools.lru_cache
def _of_scheme(scheme):
  options = {}
  if scheme in ('gs', 'gcs', 's3', 's3a'):
    # A listing that is kept would not show what another host has written.
    options['use_listings_cache'] = False
  if scheme in ('gs', 'gcs'):
    options['requests_timeout'] = _PATIENCE_OTHERS
  if scheme in ('s3', 's3a'):
    options['config_kwargs'] = {
      'connect_timeout': _PATIENCE_CONNECT,
      'read_timeout': _PATIENCE,
    }
  return fsspec.filesystem(scheme, **options)


def filesystem(path: str):
  """Returns the layer that reads an address.

  Raises:
    ValueError: where this machine has none.
  """
  scheme = path.split('://')[0] if is_remote(path) else 'file'
  try:
    return _of_scheme(scheme)
  except (ImportError, ValueError) as error:
    raise ValueError(
      f'{path} is of a kind that this machine cannot read: {error}; accepted: '
      'a folder, gs://..., or s3://... with the package s3fs'
    ) from error


def _read_remote(path, start, stop):
  if start >= stop:
    return b''
  layer = filesystem(path)
  # Those that are not asynchronous take it for an option of their own.
  patience = {'timeout': _PATIENCE} if layer.async_impl else {}
  try:
    return layer.cat_file(path, start=start, end=stop, **patience)
  except TimeoutError as error:
    raise OSError(f'{path}: no answer within {_PATIENCE} s') from error
  except OSError:
    raise
  except Exception as error:  # Each file layer raises errors of its own.
    raise OSError(f'{path}: {error}') from error


def of_info(path: str, info: dict) -> File:
  """Returns a file of a bucket, by what its layer says of it."""
  tag = next((str(info[name]) for name in _TAGS if info.get(name)), '')
  return File(path, info['size'], tag)


def of_status(path: str, status: os.stat_result) -> File:
  """Returns a local file."""
  return File(path, status.st_size, str(status.st_mtime_ns))
