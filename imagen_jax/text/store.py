"""The store of text embeddings: read beside the pictures, by caption.

A store is a folder, local or in a bucket. Its embeddings lie in ArrayRecord
shards, one record a caption: the caption's key (16 bytes) and the embeddings of
its real tokens (`codec.py`). Beside each shard lies the sorted array of its
keys, an .npy file; the record of key i is record i. A caption's key, a hash,
says which shard holds it, so one lookup touches one index however large the
store. Shards are grouped in parts: encoding more captions adds a part.
`manifest.json` is written last, so that a folder with one is complete.
"""

from concurrent import futures
import dataclasses

import numpy as np

from imagen_jax import storage
from imagen_jax.text import codec
from imagen_jax.text import files
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import open_shards

# Shards of a bucket that are opened or read at once.
_READS = 64
# Records of a source that a store does not know which are looked at before a
# run. A source in a bucket reads them side by side: 64 rounds of 64 reads, with
# their pictures, are a few seconds where a read takes 50 ms.
_CHECKED = 4096


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
    size = self.manifest['num_tokens'] * self.embed_dim * codec.DTYPE.itemsize
    self._shards = open_shards.OpenShards(
      (self.embed_dim, identity['stored_dtype']),
      in_memory=size <= memory_bytes,
    )
    self._parts = [
      _Part(number, len(part['shards']))
      for number, part in enumerate(self.manifest['parts'])
    ]
    # A disk is read faster than threads are asked to.
    self._pool = None
    if storage.is_bucket(self.path):
      self._pool = futures.ThreadPoolExecutor(_READS)

  def __len__(self) -> int:
    return self.manifest['num_captions']

  def _visit(self, keys, visit):
    """Yields (positions in `keys`, what `visit` returns) of keys found.

    Args:
      keys: [n].
      visit: is called with a shard and rows of it, for a bucket in several
        threads, and at times more than once for a shard.
    """
    left = np.arange(len(keys))
    for part in self._parts:

      def look(task, part=part):
        number, positions = task
        shard = self._shards.get(
          manifest_lib.shard_path(
            self.path, part.number, number, part.num_shards
          )
        )
        rows, found = shard.find(keys[positions])
        value = visit(shard, rows[found]) if found.any() else None
        return positions, found, value

      absent = []
      tasks = self._tasks(left, keys, part)
      # The pool's `map` gives up what has not begun where one of them fails.
      looked = self._pool.map(look, tasks) if self._pool else map(look, tasks)
      for positions, found, value in looked:
        absent.append(positions[~found])
        if found.any():
          yield positions[found], value
      left = np.concatenate(absent) if absent else left[:0]
      if not len(left):
        return

  def _tasks(self, left, keys, part):
    """Returns [(shard of a part, positions `left` of its keys)]."""
    numbers = manifest_lib.shards_of(keys[left], part.num_shards)
    order = np.argsort(numbers, kind='stable')
    held, starts = np.unique(numbers[order], return_index=True)
    # A shard gives its records one by one; those of few shards, such as the
    # only one of a small store, are shared out between all threads.
    most = -(-len(left) // _READS) if self._pool else len(left)
    tasks = []
    for number, positions in zip(
      held.tolist(), np.split(left[order], starts[1:])
    ):
      for first in range(0, len(positions), most):
        tasks.append((number, positions[first : first + most]))
    return tasks

  def has(self, keys: np.ndarray) -> np.ndarray:
    """Returns which keys (`manifest.keys_of`) the store holds, bool [n]."""
    found = np.zeros(len(keys), bool)
    for positions, _ in self._visit(keys, lambda shard, rows: None):
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
    keys = manifest_lib.keys_of(captions)
    for positions, found in self._visit(keys, open_shards.Shard.read):
      for position, tokens in zip(positions, found, strict=True):
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

  def check(self, text) -> None:
    """Raises ValueError where the store is not of a config's encoder.

    Args:
      text: the config, a `config.TextConfig`. Of its weights and vocabulary
        a small part is read, for their fingerprints.
    """
    # Here, since it brings JAX: reading a store alone needs none.
    from imagen_jax.text import identity

    manifest_lib.check_identity(self.path, self.manifest, identity.of(text))

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
      looked_at = range(0, len(source), -(-len(source) // most))
      captions = list(source.read(looked_at))
      absent = self.missing(captions)
      if absent:
        raise ValueError(
          f'text.store {self.path} lacks {len(absent)} of the '
          f'{len(set(captions))} captions of {source.name}, of which '
          f'{len(looked_at)} of {len(source)} records were looked at; the '
          f'first is {absent[0]!r}; run imagen-jax encode with this config '
          'and this store'
        )
