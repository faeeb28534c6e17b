"""Writing the store of text embeddings (its form: `store.py`).

Which captions a shard holds, and how they are batched, depends on the captions
alone. So a shard is encoded the same whoever does it: hosts take every n-th
one, and a run that was killed goes on with the first that is not finished. A
shard's files get their names when they are whole, its note (.json) after them,
and the manifest last of all.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import hashlib
import json
import math
import os

from array_record.python import array_record_module
import numpy as np

from imagen_jax.text import store as store_lib
from imagen_jax.text import tokenizer as tokenizer_lib

# Bytes of a shard, about: large enough that 860 million captions at T5 XXL's
# width stay near 10^5 files, small enough to be held while it is written.
_SHARD_BYTES = 2**30
# Lengths that batches are padded to. Each costs one compilation.
_NUM_SHAPES = 4


@dataclasses.dataclass
class Progress:
  """What has been encoded, for a progress bar.

  Attributes:
    captions: encoded or found finished.
    tokens: real ones among those computed.
    computed: tokens computed, padding included.
  """

  captions: int = 0
  tokens: int = 0
  computed: int = 0


def distinct(captions: Iterable[str]) -> tuple[list[str], int]:
  """Returns the distinct captions with text, and the number of empty ones."""
  found, num_empty = {}, 0
  for caption in captions:
    if caption.strip():
      found[caption] = None
    else:
      num_empty += 1
  return list(found), num_empty


def pending(path: str, captions: list[str], identity: dict) -> list[str]:
  """Returns those of distinct captions that a finished store lacks.

  Args:
    path: the store's folder, which need not exist.
    captions: distinct captions.
    identity: of the encoder (`identity.of`).

  Raises:
    ValueError: where the store is of another encoder.
  """
  manifest = store_lib.read_manifest(path)
  if manifest is None:
    return captions
  store_lib.check_identity(path, manifest, identity)
  return store_lib.EmbeddingStore(path).missing(captions)


def static_lengths(lengths: np.ndarray, num_shapes: int) -> list[int]:
  """Returns the at most `num_shapes` lengths that waste the least on padding.

  Each text is padded to the least of them that holds it; the largest is the
  longest text's.

  Args:
    lengths: of the texts, int [n], n at least 1.
    num_shapes: at least 1.
  """
  values, counts = np.unique(lengths, return_counts=True)
  below = np.concatenate([[0], np.cumsum(counts)])
  # cost[j]: tokens computed for the j shortest values, the last of which is
  # one of the lengths; the texts after the previous one are padded to it.
  cost = values * below[1:]
  choices = [[int(value)] for value in values]
  for _ in range(num_shapes - 1):
    better, chosen = cost.copy(), list(choices)
    for j in range(1, len(values)):
      split = cost[:j] + values[j] * (below[j + 1] - below[1 : j + 1])
      best = int(np.argmin(split))
      if split[best] < better[j]:
        better[j] = split[best]
        chosen[j] = choices[best] + [int(values[j])]
    cost, choices = better, chosen
  return choices[-1]


def write(
  path: str,
  captions: list[str],
  encoder,
  identity: dict,
  *,
  batch_size: int = 64,
  shard_bytes: int = _SHARD_BYTES,
  host: tuple[int, int] = (0, 1),
  barrier: Callable[[], None] = lambda: None,
  report: Callable[[Progress], None] = lambda progress: None,
) -> dict:
  """Encodes captions into a store, or into a new part of one.

  Args:
    path: the store's folder.
    captions: distinct and without empty ones; all that hosts together encode.
      None is in the store yet.
    encoder: has `tokenizer`, `encode_tokens` and `row_multiple`, as
      `encoder.TextEncoder` has.
    identity: of the encoder (`identity.of`).
    batch_size: captions computed at once.
    shard_bytes: about how large a shard is.
    host: this host's number and the number of hosts; all see the same folder.
    barrier: waits for all hosts.
    report: is told of the progress after every batch.

  Returns:
    The store's manifest.

  Raises:
    ValueError: where the store is of another encoder, or an embedding is not
      finite.
  """
  if not captions:
    raise ValueError('no captions to encode; accepted: at least one')
  if batch_size < 1:
    raise ValueError(f'--batch-size is {batch_size}; accepted: 1 or more')
  manifest = store_lib.read_manifest(path)
  if manifest is None:
    manifest = {'format': store_lib.FORMAT, 'identity': identity, 'parts': []}
  store_lib.check_identity(path, manifest, identity)

  keys = store_lib.keys_of(captions)
  order = np.argsort(keys)
  keys, captions = keys[order], [captions[i] for i in order]
  tokens, num_cut = encoder.tokenizer.ragged(captions, identity['max_length'])
  lengths = np.array([len(ids) for ids in tokens])
  width = identity['embed_dim'] * store_lib.DTYPE.itemsize
  num_shards = math.ceil(int(lengths.sum()) * width / shard_bytes)
  shapes = static_lengths(lengths, _NUM_SHAPES)
  rows = -(-batch_size // encoder.row_multiple) * encoder.row_multiple

  part = len(manifest['parts'])
  bounds = np.searchsorted(
    store_lib.shards_of(keys, num_shards), np.arange(num_shards + 1)
  )
  ranges = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
  progress = Progress()
  for shard in range(host[0], num_shards, host[1]):
    start, stop = ranges[shard]
    base = store_lib.shard_path(path, part, shard, num_shards)
    plan = _plan(identity, keys[start:stop], shapes, rows)
    if _finished(base, plan) is None:
      records = [b''] * (stop - start)
      batches = _encode(encoder, tokens[start:stop], shapes, rows)
      for positions, embeds, computed in batches:
        for position, embed in zip(positions, embeds, strict=True):
          i = start + int(position)
          records[position] = _record(keys[i], embed, captions[i])
        progress.captions += len(positions)
        progress.tokens += sum(map(len, embeds))
        progress.computed += computed
        report(progress)
      num_tokens = int(lengths[start:stop].sum())
      _write_shard(base, plan, keys[start:stop], records, num_tokens)
    else:
      progress.captions += stop - start
      report(progress)

  barrier()
  if host[0] == 0:
    manifest = _finish(path, manifest, part, num_shards, num_cut)
  barrier()
  return manifest


def _encode(encoder, tokens, shapes, rows) -> Iterator:
  """Yields batches: positions, embeddings [l, D] of each, tokens computed.

  Texts are taken by length, the longest first, so that each batch is padded
  little and only the last has rows to spare.
  """
  lengths = np.array([len(ids) for ids in tokens], int)
  order = np.argsort(-lengths, kind='stable')

  def fetch(positions, embed):
    embed = np.asarray(embed)
    real = [
      row[:length]
      for row, length in zip(embed, lengths[positions], strict=False)
    ]
    return positions, real, embed.shape[0] * embed.shape[1]

  waiting = None
  for first in range(0, len(order), rows):
    positions = order[first : first + rows]
    length = shapes[np.searchsorted(shapes, lengths[positions[0]])]
    batch = [tokens[i] for i in positions]
    embed = encoder.encode_tokens(*tokenizer_lib.pad(batch, rows, length))
    # The device works on this batch while the one before it is fetched.
    if waiting:
      yield fetch(*waiting)
    waiting = positions, embed
  if waiting:
    yield fetch(*waiting)


def _record(key, embed, caption) -> bytes:
  """Returns the bytes of one record."""
  if not np.isfinite(embed.astype(np.float32)).all():
    raise ValueError(
      f'the embedding of {caption!r} is not finite; accepted: finite ones; '
      'text.checkpoint may be corrupt, or text.dtype too coarse for it'
    )
  # NumPy strips zeros from the end of a key.
  key = key.ljust(store_lib.KEY_BYTES, b'\0')
  return key + embed.astype(store_lib.DTYPE).tobytes()


def _plan(identity, keys, shapes, rows) -> str:
  """Returns a hash of all that a shard's bytes depend on."""
  said = json.dumps([identity, shapes, rows], sort_keys=True).encode()
  return hashlib.sha256(said + keys.tobytes()).hexdigest()


def _finished(base, plan) -> dict | None:
  """Returns the note of a shard that was finished under this plan."""
  try:
    with open(f'{base}.json', encoding='utf-8') as file:
      note = json.load(file)
  except FileNotFoundError:
    return None
  return note if note['plan'] == plan else None


def _write_shard(base, plan, keys, records, num_tokens):
  os.makedirs(os.path.dirname(base), exist_ok=True)
  # Written whole under other names; a note of an older plan goes first.
  if os.path.exists(f'{base}.json'):
    os.remove(f'{base}.json')
  writer = array_record_module.ArrayRecordWriter(
    # Embeddings hardly compress; without it a record is one read.
    f'{base}.array_record.tmp',
    'group_size:1,uncompressed',
  )
  for record in records:
    writer.write(record)
  writer.close()
  with open(f'{base}.npy.tmp', 'wb') as file:
    np.save(file, keys)
  hashes = {}
  for suffix in ('array_record', 'npy'):
    name = f'{base}.{suffix}'
    with open(f'{name}.tmp', 'rb') as file:
      hashes[os.path.basename(name)] = hashlib.file_digest(
        file, 'sha256'
      ).hexdigest()
    os.replace(f'{name}.tmp', name)
  _write_json(
    f'{base}.json',
    {
      'plan': plan,
      'captions': len(keys),
      'tokens': num_tokens,
      'sha256': hashes,
    },
  )


def _finish(path, manifest, part, num_shards, num_cut):
  """Writes the manifest with the new part; the shards' notes go into it."""
  bases = [
    store_lib.shard_path(path, part, shard, num_shards)
    for shard in range(num_shards)
  ]
  shards = []
  for base in bases:
    with open(f'{base}.json', encoding='utf-8') as file:
      shards.append(json.load(file))
  parts = [*manifest['parts'], {'num_cut': num_cut, 'shards': shards}]
  every = [shard for part in parts for shard in part['shards']]
  manifest = {
    **manifest,
    'stored_dtype': store_lib.DTYPE.name,
    'num_captions': sum(shard['captions'] for shard in every),
    'num_tokens': sum(shard['tokens'] for shard in every),
    'num_cut': sum(part['num_cut'] for part in parts),
    'parts': parts,
  }
  _write_json(os.path.join(path, store_lib.MANIFEST), manifest)
  # The notes have done their work, as have files of a run that was killed.
  wanted = {name for shard in shards for name in shard['sha256']}
  folder = os.path.dirname(bases[0])
  for name in set(os.listdir(folder)) - wanted:
    os.remove(os.path.join(folder, name))
  return manifest


def _write_json(path, value):
  with open(f'{path}.tmp', 'w', encoding='utf-8') as file:
    json.dump(value, file, indent=1)
    file.write('\n')
  os.replace(f'{path}.tmp', path)
