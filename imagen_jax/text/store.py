"""The store of text embeddings: read beside the pictures, by caption.

A store is a folder, local or in a bucket. Its embeddings lie in ArrayRecord
shards, one record a caption: the caption's key (16 bytes) and the embeddings of
its real tokens (`codec.py`). Beside each shard lies the sorted array of its
keys, an .npy file; the record of key i is record i. A caption's key, a hash,
says which shard holds it, so one lookup touches one index however large the
store. Shards are grouped in parts: encoding more captions adds a part.
`manifest.json` is written last, so that a folder with one is complete.
"""

import collections
import dataclasses
import io
import threading

from array_record.python import array_record_module
import numpy as np

from imagen_jax import storage
from imagen_jax.text import codec
from imagen_jax.text import files
from imagen_jax.text import manifest as manifest_lib

# Shards that are open at once where a store is not held in memory.
_OPEN_SHARDS = 256
# Records of a source that a store does not know which are looked at before a
# run: seconds, also of a source in a bucket.
_CHECKED = 4096
# What NumPy and ArrayRecord raise of files that are not whole.
UNREADABLE = (OSError, ValueError, RuntimeError, IndexError, EOFError)


class _Shard:
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


@dataclasses.dataclass(frozen=True)
class _Part:
  number: int
  num_shards: int


class EmbeddingStore:
  """Embeddings by caption. Safe to use from several threads.

  Attributes:
    path: the store's folder.
    manifest: what `write_store.write` says of it.
    embed_dim: width of an embedding.
    max_length: tokens that captions were cut to.
  """

  def __init__(self, path: str, *, memory_bytes: int = 512 * 2**20):
    """Opens a finished store.

    Args:
      path: its folder.
      memory_bytes: a store of at most this size is held in memory, shard by
        shard as each is first used.

    Raises:
      ValueError: where the folder holds no finished store.
    """
    self.path = files.resolve(str(path), manifest_lib.FIELD)
    self.manifest = manifest_lib.read(self.path)
    if self.manifest is None:
      raise ValueError(
        f'text.store is {self.path!r}, which has no {manifest_lib.MANIFEST}: '
        'not a store, or one that was not finished; run imagen-jax encode'
      )
    identity = self.manifest['identity']
    self.embed_dim = identity['embed_dim']
    self.max_length = identity['max_length']
    self._form = self.embed_dim, identity['stored_dtype']
    size = self.manifest['num_tokens'] * self.embed_dim * codec.DTYPE.itemsize
    self._in_memory = size <= memory_bytes
    self._parts = [
      _Part(number, len(part['shards']))
      for number, part in enumerate(self.manifest['parts'])
    ]
    self._open = collections.OrderedDict()
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return self.manifest['num_captions']

  def _shard(self, part, number):
    with self._lock:
      place = (part.number, number)
      if place not in self._open:
        path = manifest_lib.shard_path(
          self.path, part.number, number, part.num_shards
        )
        self._open[place] = _Shard(path, self._form, self._in_memory)
        if not self._in_memory and len(self._open) > _OPEN_SHARDS:
          self._open.popitem(last=False)
      self._open.move_to_end(place)
      return self._open[place]

  def _find(self, keys):
    """Yields (shard, positions in `keys`, rows of the shard) of those found."""
    left = np.arange(len(keys))
    for part in self._parts:
      numbers = manifest_lib.shards_of(keys[left], part.num_shards)
      absent = []
      for number in np.unique(numbers):
        positions = left[numbers == number]
        shard = self._shard(part, int(number))
        rows, found = shard.find(keys[positions])
        absent.append(positions[~found])
        if found.any():
          yield shard, positions[found], rows[found]
      left = np.concatenate(absent) if absent else left[:0]
      if not len(left):
        return

  def has(self, keys: np.ndarray) -> np.ndarray:
    """Returns which keys (`manifest.keys_of`) the store holds, bool [n]."""
    found = np.zeros(len(keys), bool)
    for _, positions, _ in self._find(keys):
      found[positions] = True
    return found

  def missing(self, captions: list[str]) -> list[str]:
    """Returns the distinct captions that the store lacks, in their order."""
    captions = list(dict.fromkeys(captions))
    absent = ~self.has(manifest_lib.keys_of(captions))
    return [captions[i] for i in np.flatnonzero(absent)]

  def lookup(
    self, captions: list[str], max_length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings, bfloat16 [B, L, D], and mask, bool [B, L].

    Embeddings are zero where the mask is False.

    Args:
      captions: B captions.
      max_length: L.

    Raises:
      ValueError: where a caption is missing, naming the first and their
        number; or is longer than `max_length`; or where a shard is corrupt.
    """
    embed = np.zeros((len(captions), max_length, self.embed_dim), codec.DTYPE)
    lengths = np.zeros(len(captions), np.int64)
    for shard, positions, rows in self._find(manifest_lib.keys_of(captions)):
      for position, tokens in zip(positions, shard.read(rows), strict=True):
        lengths[position] = len(tokens)
        if len(tokens) <= max_length:
          embed[position, : len(tokens)] = tokens
    if not lengths.all():
      missing = self.missing(captions)
      raise ValueError(
        f'text.store {self.path} lacks {len(missing)} of '
        f'{len(set(captions))} captions, the first {missing[0]!r}; run '
        'imagen-jax encode with this config and this store'
      )
    if lengths.max(initial=0) > max_length:
      raise ValueError(
        f'text.store {self.path} holds {lengths.max()} tokens of '
        f'{captions[int(lengths.argmax())]!r}; accepted: text.max_length of '
        f'so many or more, not {max_length}'
      )
    return embed, np.arange(max_length)[None] < lengths[:, None]

  def check(self, text, *, read_checkpoint: bool = True) -> None:
    """Raises ValueError where the store is not of a config's encoder.

    Args:
      text: the config, a `config.TextConfig`.
      read_checkpoint: compare weights and vocabulary too, by fingerprints,
        which reads a small part of them. False compares what the config
        states by itself, for a host that cannot reach them.
    """
    # Here, since it brings JAX: reading a store alone needs none.
    from imagen_jax.text import identity

    read = identity.of if read_checkpoint else identity.declared
    manifest_lib.check_identity(self.path, self.manifest, read(text))

  def check_covers(self, sources, *, most: int = _CHECKED) -> None:
    """Raises ValueError where captions of some sources are known to be missing.

    Sources that the store was made of are complete and cost nothing. Of others
    some records are looked at, evenly spread: all of a small source.

    Args:
      sources: of captions, as `write_store.write` takes them.
      most: records looked at, of each.
    """
    known = {source['fingerprint'] for source in self.manifest['sources']}
    for source in sources:
      if source.fingerprint in known:
        continue
      step = -(-len(source) // most)
      captions = [
        caption
        for record in range(0, len(source), step)
        for caption in source.read(record, record + 1)
      ]
      absent = self.missing(captions)
      if absent:
        seen = len(range(0, len(source), step))
        raise ValueError(
          f'text.store {self.path} lacks {len(absent)} of the '
          f'{len(set(captions))} captions of {source.name}, of which {seen} of '
          f'{len(source)} records were looked at; the first is {absent[0]!r}; '
          'run imagen-jax encode with this config and this store'
        )
