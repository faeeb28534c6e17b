"""The open shards of a store: each opened once, whoever asks first.

A store in a bucket answers after tens of milliseconds, and a batch of captions
lies in as many shards. So nothing is opened or read under a lock that others
need, and many may be at it together.
"""

import collections
from concurrent import futures
import io
import threading

from array_record.python import array_record_module
import numpy as np

from imagen_jax import storage
from imagen_jax.text import codec
from imagen_jax.text import manifest as manifest_lib

# Shards that are open at once where a store is not held in memory.
_OPEN_SHARDS = 256
# What NumPy and ArrayRecord raise of files that are not whole.
UNREADABLE = (OSError, ValueError, RuntimeError, IndexError, EOFError)


class OpenShards:
  """Shards by their path, the last used of them. Safe in several threads."""

  def __init__(self, form: tuple[int, str], *, in_memory: bool):
    """Opens nothing.

    Args:
      form: `embed_dim` and `stored_dtype` of the store.
      in_memory: shards are read as wholes, and none is closed.
    """
    self._form = form
    self._in_memory = in_memory
    self._shards = collections.OrderedDict()  # Of futures.
    self._lock = threading.Lock()

  def get(self, path: str) -> 'Shard':
    """Returns a shard; who asks for one that is being opened waits for it.

    Args:
      path: `manifest.shard_path`.

    Raises:
      ValueError: where it is missing or corrupt, for all who wait. Who asks
        later opens it anew.
    """
    with self._lock:
      found = self._shards.get(path)
      if found is not None:
        self._shards.move_to_end(path)
      else:
        opening = self._shards[path] = futures.Future()
        if not self._in_memory and len(self._shards) > _OPEN_SHARDS:
          self._shards.popitem(last=False)
    if found is not None:
      return found.result()
    try:
      opening.set_result(Shard(path, self._form, self._in_memory))
    except BaseException as error:
      with self._lock:
        if self._shards.get(path) is opening:
          del self._shards[path]
      opening.set_exception(error)
    return opening.result()


class Shard:
  """One open shard; its records are read at need, or all at once."""

  def __init__(self, path, form, in_memory):
    self._path = path
    self._form = form  # embed_dim, stored_dtype
    self._lock = threading.Lock()
    self._offsets = None
    try:
      self.keys = load_keys(f'{path}.npy', in_memory)
      self._reader = array_record_module.ArrayRecordReader(
        f'{path}.array_record',
        options='readahead_buffer_size:0,max_parallelism:0',
      )
      num_records = self._reader.num_records()
    except UNREADABLE as error:
      raise self._corrupt(error) from error
    if self.keys.dtype != manifest_lib.KEY or num_records != len(self.keys):
      raise self._corrupt(f'{num_records} records, {len(self.keys)} keys')
    self._in_memory = in_memory

  def _corrupt(self, reason):
    return ValueError(
      f'text.store: shard {self._path} is missing, truncated or corrupt '
      f'({str(reason).splitlines()[0]}); delete the store and run imagen-jax '
      'encode again'
    )

  def find(self, keys):
    """Returns the row of each key, and whether the shard has it."""
    rows = np.searchsorted(self.keys, keys)
    inside = rows < len(self.keys)
    found = np.zeros(len(keys), bool)
    found[inside] = self.keys[rows[inside]] == keys[inside]
    return rows, found

  def read(self, rows):
    """Returns the embeddings [l, D] of each row."""
    if not self._in_memory:
      return self._decode(self._read(list(map(int, rows))), rows)
    with self._lock:
      if self._offsets is None:
        self._load()
    return [
      self._tokens[self._offsets[row] : self._offsets[row + 1]] for row in rows
    ]

  def _load(self):
    every = np.arange(len(self.keys))
    embeds = self._decode(self._read(None), every)
    self._tokens = np.concatenate(embeds)
    self._offsets = [0, *np.cumsum([len(e) for e in embeds]).tolist()]

  def _read(self, rows):
    try:
      if rows is None:
        return self._reader.read_all()
      return self._reader.read(rows)
    except (ValueError, RuntimeError, IndexError) as error:
      raise self._corrupt(error) from error

  def _decode(self, records, rows):
    embeds = []
    for record, key in zip(records, self.keys[rows], strict=True):
      try:
        found, tokens = codec.decode(record, *self._form)
      except ValueError as error:
        raise self._corrupt(error) from error
      # The index's bytes lose zeros at their end, the record's do not.
      if found != key.ljust(manifest_lib.KEY_BYTES, b'\0'):
        raise self._corrupt('a record under the key of another')
      embeds.append(tokens)
    return embeds


def load_keys(name, in_memory):
  """Returns a shard's keys; on disk, of which a lookup touches few pages."""
  if '://' not in name:
    return np.load(name, mmap_mode=None if in_memory else 'r')
  contents = storage.read(name, manifest_lib.FIELD)
  if contents is None:
    raise FileNotFoundError(f'no {name}')
  return np.load(io.BytesIO(contents))
