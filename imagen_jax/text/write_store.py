"""Writing the store of text embeddings (its form: `store.py`).

Which captions a shard holds, and what is computed of them, depends on the
captions alone. So a shard has the same bytes whoever writes it: each host takes
its share of them, and a run that was killed goes on with those that are not
finished. A shard's files get their names when they are whole, its note (.json)
after them, and the manifest last of all.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import hashlib
import json
import math
import os
import shutil
import time

from array_record.python import array_record_module
import numpy as np

from imagen_jax.text import codec
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import shapes as shapes_lib
from imagen_jax.text import spool as spool_lib
from imagen_jax.text import store as store_lib
from imagen_jax.text import tokenizer as tokenizer_lib

# Bytes of a shard, at most about: large enough that 860 million captions at T5
# XXL's width stay near 10^5 files, small enough to be held while it is written.
_SHARD_BYTES = 2**30
# Captions, about, that are taken out of the spool at once.
_GROUP_CAPTIONS = 2**18
_POLL_SECONDS = 0.5


@dataclasses.dataclass
class Progress:
  """What this host has done, for a progress bar.

  Attributes:
    stage: 'scan' or 'encode'.
    total: records to scan, or captions to encode, of this host; about.
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
    path: the store's folder.
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
  if '://' in path:
    raise ValueError(
      f'--out is {path!r}; accepted: a folder, or a bucket that is mounted as '
      'one; a finished store may be copied to a bucket and read there'
    )
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
    return manifest

  job = _Job(path, manifest, sources, identity, rows, shapes, run_records)
  job.scan(encoder, host, report)
  _wait(job.spool.is_complete)
  job.plan(shard_bytes)
  if job.num_shards:
    job.encode(encoder, host, report)
    _wait(job.is_complete)
  barrier()
  # From here on no other host looks at the spool or at the shards' notes.
  if host[0] == 0:
    job.finish()
  barrier()
  return manifest_lib.read(path)


def _wait(ready):
  """Waits for what other hosts write."""
  while not ready():
    time.sleep(_POLL_SECONDS)


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
    self._part = len(manifest['parts'])
    self._sources = [
      {'name': s.name, 'fingerprint': s.fingerprint, 'records': len(s)}
      for s in sources
    ]
    self._encoder = None
    said = [manifest, identity, self._sources, rows, self._shapes, run_records]
    self._plan = _hash(said)
    folder = os.path.join(path, f'spool-{self._plan[:16]}')
    self.spool = spool_lib.Spool(folder, sources, run_records)
    self.num_shards = None
    self._seen = 0

  def _make(self, encoder):
    if self._encoder is None:
      made = hasattr(encoder, 'encode_tokens')
      self._encoder = encoder if made else encoder()
    return self._encoder

  def scan(self, encoder, host, report):
    lacking = lambda keys: np.ones(len(keys), bool)
    if self._manifest['parts']:
      store = store_lib.EmbeddingStore(self._path)
      lacking = lambda keys: ~store.has(keys)
    records = sum(source['records'] for source in self._sources)
    progress = Progress('scan', -(-records // host[1]))
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
    self.num_shards = math.ceil(tokens * width / shard_bytes)
    self._plan = _hash([self._plan, self.num_shards])
    if not self.num_shards and not self._manifest['parts']:
      raise ValueError(
        'the tasks of data.tasks have no captions; accepted: at least one'
      )

  def _base(self, shard):
    return manifest_lib.shard_path(
      self._path, self._part, shard, self.num_shards
    )

  def _note(self, shard):
    """Returns the note of a shard that was finished under this plan."""
    note = manifest_lib.read_json(f'{self._base(shard)}.json')
    return note if note and note['plan'] == self._plan else None

  def is_complete(self):
    """Returns whether every host's shards are there."""
    while self._seen < self.num_shards and self._note(self._seen):
      self._seen += 1  # A note is read once, however often this is asked.
    return self._seen == self.num_shards

  def encode(self, encoder, host, report):
    """Writes this host's share of the shards."""
    # Neighbours, so that many can be taken out of the spool together.
    first, last = (
      self.num_shards * n // host[1] for n in (host[0], host[0] + 1)
    )
    share = (last - first) / self.num_shards
    progress = Progress('encode', round(self._num_captions * share))
    self._start = time.monotonic()
    group = max(1, self.num_shards * _GROUP_CAPTIONS // self._num_captions)
    for start in range(first, last, group):
      stop = min(start + group, last)
      self._encode_group(start, stop, encoder, progress, report)

  def _encode_group(self, start, stop, encoder, progress, report):
    notes = [self._note(shard) for shard in range(start, stop)]
    if not all(notes):
      keys, captions = self.spool.read(start, stop, self.num_shards)
      shards = manifest_lib.shards_of(keys, self.num_shards)
      bounds = np.searchsorted(shards, np.arange(start, stop + 1)).tolist()
    for number, note in enumerate(notes):
      if note:
        progress.done += note['captions']
        report(progress)
        continue
      part = slice(*bounds[number : number + 2])
      records = [b''] * len(keys[part])
      batches = _Batches(
        self._make(encoder), captions[part], self._identity, self._rows
      )
      for positions, embeds, computed in batches.run(self._shapes):
        for position, embed in zip(positions, embeds, strict=True):
          records[position] = _record(
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
      self._write_shard(start + number, keys[part], records, batches)

  def _write_shard(self, shard, keys, records, batches):
    """Writes a shard whole under other names, then gives it its own."""
    base = self._base(shard)
    os.makedirs(os.path.dirname(base), exist_ok=True)
    if os.path.exists(f'{base}.json'):
      os.remove(f'{base}.json')  # The note of an older plan.
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
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
      hashes[os.path.basename(name)] = digest
      manifest_lib.publish(name)
    note = {
      'plan': self._plan,
      'captions': len(keys),
      'tokens': int(batches.lengths.sum()),
      'cut': batches.num_cut,
      'sha256': hashes,
    }
    manifest_lib.write_json(f'{base}.json', note)

  def finish(self):
    """Writes the manifest with the new part; the shards' notes go into it."""
    manifest = self._manifest
    notes = [self._note(shard) for shard in range(self.num_shards)]
    part = {
      'mentions': self._counts['mentions'],
      'empty': self._counts['empty'],
      'cut': sum(note['cut'] for note in notes),
      'shards': [
        {name: note[name] for name in ('captions', 'tokens', 'sha256')}
        for note in notes
      ],
    }
    # Sources whose captions the store had already make no part.
    parts = manifest['parts'] + ([part] if notes else [])
    every = [shard for part in parts for shard in part['shards']]
    manifest = {
      **manifest,
      'sources': manifest['sources'] + self._sources,
      'num_captions': sum(shard['captions'] for shard in every),
      'num_tokens': sum(shard['tokens'] for shard in every),
      'num_cut': sum(part['cut'] for part in parts),
      'parts': parts,
    }
    manifest_lib.write_json(
      os.path.join(self._path, manifest_lib.MANIFEST), manifest
    )
    self._clean({name for note in notes for name in note['sha256']})

  def _clean(self, wanted):
    """Removes what has done its work, and what a killed run has left."""
    for name in os.listdir(self._path):
      if name.startswith('spool-'):
        shutil.rmtree(os.path.join(self._path, name))
    if wanted:
      folder = os.path.dirname(self._base(0))
      for name in set(os.listdir(folder)) - wanted:
        os.remove(os.path.join(folder, name))


class _Batches:
  """The captions of one shard, by length.

  Attributes:
    lengths: tokens of each, int [n].
    num_cut: how many were longer.
  """

  def __init__(self, encoder, captions, identity, rows):
    self._encoder = encoder
    self._rows = rows * encoder.row_multiple
    self._tokens, self.num_cut = encoder.tokenizer.ragged(
      captions, identity['max_length']
    )
    self.lengths = np.array([len(ids) for ids in self._tokens], int)

  def run(self, shapes) -> Iterator:
    """Yields positions, embeddings [l, D] of each, tokens computed."""
    waiting = None
    for positions, length in shapes_lib.tiles(self.lengths, shapes, self._rows):
      batch = [self._tokens[i] for i in positions]
      padded = tokenizer_lib.pad(batch, self._rows, length)
      embed = self._encoder.encode_tokens(*padded)
      # The device works on this batch while the one before it is fetched.
      if waiting:
        yield self._fetch(*waiting)
      waiting = positions, embed
    if waiting:
      yield self._fetch(*waiting)

  def _fetch(self, positions, embed):
    embed = np.asarray(embed)
    real = [
      row[:length]
      for row, length in zip(embed, self.lengths[positions], strict=False)
    ]
    return positions, real, embed.shape[0] * embed.shape[1]


def _record(key, embed, caption, stored_dtype) -> bytes:
  """Returns the bytes of one record."""
  if not np.isfinite(embed.astype(np.float32)).all():
    raise ValueError(
      f'the embedding of {caption!r} is not finite; accepted: finite ones; '
      'text.checkpoint may be corrupt, or text.dtype too coarse for it'
    )
  return codec.encode(key, embed, stored_dtype)


def _hash(value) -> str:
  """Returns a hash of what JSON can hold."""
  said = json.dumps(value, sort_keys=True).encode()
  return hashlib.sha256(said).hexdigest()
