"""The store of text embeddings: read beside the pictures, by caption.

A store is a folder. Its embeddings lie in ArrayRecord shards, one record a
caption: the caption's key (16 bytes) and the bfloat16 embeddings of its real
tokens, [l, D]. Beside each shard lies the sorted array of its keys, an .npy
file; the record of key i is record i. A caption's key, a hash, says which shard
holds it, so one lookup touches one index however large the store. Shards are
grouped in parts: encoding more captions adds a part. `manifest.json` is
written last, so that a folder with one is complete.
"""

import collections
import dataclasses
import hashlib
import json
import os
import threading

from array_record.python import array_record_module
import ml_dtypes
import numpy as np

FORMAT = 1
MANIFEST = 'manifest.json'
KEY_BYTES = 16
DTYPE = np.dtype(ml_dtypes.bfloat16)
_KEY = np.dtype(f'S{KEY_BYTES}')
# Shards that are open at once where a store is not held in memory.
_OPEN_SHARDS = 256


def keys_of(captions: list[str]) -> np.ndarray:
  """Returns the captions' keys, [n] of 16 bytes; a hash of their UTF-8."""
  digests = (
    hashlib.blake2b(caption.encode(), digest_size=KEY_BYTES).digest()
    for caption in captions
  )
  return np.frombuffer(b''.join(digests), _KEY)


def shards_of(keys: np.ndarray, num_shards: int) -> np.ndarray:
  """Returns the shard of each key, int64 [n]; sorted keys have sorted ones."""
  prefix = keys.view('>u4').reshape(len(keys), -1)[:, 0].astype(np.int64)
  return (prefix * num_shards) >> 32


def shard_path(path: str, part: int, shard: int, num_shards: int) -> str:
  """Returns a shard's path, less the suffix of each of its files."""
  name = f'part-{part:03d}/shard-{shard:06d}-of-{num_shards:06d}'
  return os.path.join(path, name)


class _Shard:
  """One open shard; its records are read at need, or all at once."""

  def __init__(self, path, embed_dim, in_memory):
    self._path = path
    self._embed_dim = embed_dim
    self._lock = threading.Lock()
    self._offsets = None
    try:
      # An index on disk is searched there: a lookup touches few of its pages.
      self.keys = np.load(f'{path}.npy', mmap_mode=None if in_memory else 'r')
      self._reader = array_record_module.ArrayRecordReader(
        f'{path}.array_record',
        options='readahead_buffer_size:0,max_parallelism:0',
      )
      num_records = self._reader.num_records()
    except (OSError, ValueError, RuntimeError, IndexError) as error:
      raise self._corrupt(error) from error
    if self.keys.dtype != _KEY or num_records != len(self.keys):
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
    width = self._embed_dim * DTYPE.itemsize
    embeds = []
    for record, key in zip(records, self.keys[rows], strict=True):
      # The index's bytes lose zeros at their end, the record's do not.
      if record[:KEY_BYTES] != key.ljust(KEY_BYTES, b'\0'):
        raise self._corrupt('a record under the key of another')
      if (len(record) - KEY_BYTES) % width:
        raise self._corrupt('a record of part of an embedding')
      tokens = np.frombuffer(record, DTYPE, offset=KEY_BYTES)
      embeds.append(tokens.reshape(-1, self._embed_dim))
    return embeds


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
    self.path = str(path)
    self.manifest = read_manifest(self.path)
    if self.manifest is None:
      raise ValueError(
        f'text.store is {self.path!r}, which has no {MANIFEST}: not a store, '
        'or one that was not finished; run imagen-jax encode'
      )
    identity = self.manifest['identity']
    self.embed_dim = identity['embed_dim']
    self.max_length = identity['max_length']
    size = self.manifest['num_tokens'] * self.embed_dim * DTYPE.itemsize
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
        path = shard_path(self.path, part.number, number, part.num_shards)
        self._open[place] = _Shard(path, self.embed_dim, self._in_memory)
        if not self._in_memory and len(self._open) > _OPEN_SHARDS:
          self._open.popitem(last=False)
      self._open.move_to_end(place)
      return self._open[place]

  def _find(self, keys):
    """Yields (shard, positions in `keys`, rows of the shard) of those found."""
    left = np.arange(len(keys))
    for part in self._parts:
      numbers = shards_of(keys[left], part.num_shards)
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

  def missing(self, captions: list[str]) -> list[str]:
    """Returns the distinct captions that the store lacks, in their order."""
    captions = list(dict.fromkeys(captions))
    absent = np.ones(len(captions), bool)
    for _, positions, _ in self._find(keys_of(captions)):
      absent[positions] = False
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
    embed = np.zeros((len(captions), max_length, self.embed_dim), DTYPE)
    lengths = np.zeros(len(captions), np.int64)
    for shard, positions, rows in self._find(keys_of(captions)):
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
    check_identity(self.path, self.manifest, read(text))


def check_identity(path: str, manifest: dict, identity: dict) -> None:
  """Raises ValueError, with the differing fields, unless identities agree."""
  stored = manifest['identity']
  differences = [
    f'{name} is {stored.get(name)!r} in the store, {value!r} in the config'
    for name, value in identity.items()
    if stored.get(name) != value
  ]
  if differences:
    raise ValueError(
      f'text.store {path} holds other embeddings than this config asks for: '
      f'{"; ".join(differences)}; accepted: a store that imagen-jax encode '
      'wrote with this config'
    )


def read_manifest(path: str) -> dict | None:
  """Returns a store's manifest, or None where it has none.

  Raises:
    ValueError: where there is one that is not of this format, or the path is
      no folder of this machine.
  """
  if '://' in path:
    raise ValueError(
      f'text.store is {path!r}; accepted: a folder of this machine, or of a '
      'bucket that is mounted as one'
    )
  try:
    with open(os.path.join(path, MANIFEST), encoding='utf-8') as file:
      manifest = json.load(file)
  except (FileNotFoundError, NotADirectoryError):
    return None
  except ValueError as error:
    raise ValueError(
      f'text.store {path}: {MANIFEST} is truncated or corrupt'
    ) from error
  found = manifest.get('format') if isinstance(manifest, dict) else None
  if found != FORMAT:
    raise ValueError(
      f'text.store {path} is of format {found!r}; accepted: {FORMAT}'
    )
  return manifest
