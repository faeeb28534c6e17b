"""The store of embeddings: written, read, added to, interrupted, damaged."""

import hashlib
import itertools
import json
import pathlib
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax.text import identity as identity_lib
from imagen_jax.text import store as store_lib
from imagen_jax.text import write_store

DIM = 6
IDENTITY = {
  'encoder': 'fake',
  'max_length': 8,
  'embed_dim': DIM,
  'dtype': 'float32',
  'checkpoint': 'c',
  'vocabulary': 'v',
}


def tokens_of(caption):
  return np.array([ord(c) for c in caption[:8]], np.int32)


def embed_of(caption):
  return (tokens_of(caption)[:, None] * 2.0 ** -np.arange(DIM)).astype(
    ml_dtypes.bfloat16
  )


class FakeTokenizer:
  def ragged(self, captions, max_length):
    cut = sum(len(caption) > max_length for caption in captions)
    return [tokens_of(caption) for caption in captions], cut


class FakeEncoder:
  """Embeds a token as its code times powers of a half."""

  row_multiple = 1
  tokenizer = FakeTokenizer()

  def __init__(self, fail_after=None):
    self.shapes = []
    self.rows = 0
    self._fail_after = fail_after

  def encode_tokens(self, tokens, mask):
    if self._fail_after is not None and len(self.shapes) >= self._fail_after:
      raise KeyboardInterrupt
    self.shapes.append(tokens.shape)
    self.rows += int(mask.any(1).sum())
    return (tokens[..., None] * 2.0 ** -np.arange(DIM)).astype(np.float32)


CAPTIONS = [f'{"abcdefghij"[: 1 + i % 9]}{i}' for i in range(200)]


def write(path, captions=CAPTIONS, encoder=None, **options):
  return write_store.write(
    str(path),
    captions,
    encoder or FakeEncoder(),
    IDENTITY,
    **{'batch_size': 16, **options},
  )


def contents(path):
  return {
    str(file.relative_to(path)): file.read_bytes()
    for file in pathlib.Path(path).glob('**/*')
    if file.is_file()
  }


@pytest.mark.parametrize('memory_bytes', [0, 2**20])
@pytest.mark.parametrize('shard_bytes', [2**30, 2000, 120])
def test_what_is_written_is_looked_up(tmp_path, shard_bytes, memory_bytes):
  manifest = write(tmp_path, shard_bytes=shard_bytes)
  store = store_lib.EmbeddingStore(tmp_path, memory_bytes=memory_bytes)
  num_shards = len(manifest['parts'][0]['shards'])
  assert num_shards == {2**30: 1, 2000: 8, 120: 131}[shard_bytes]
  assert len(store) == 200

  asked = [*CAPTIONS[50:90], CAPTIONS[3], CAPTIONS[60]]
  embed, mask = store.lookup(asked, 8)

  assert (embed.shape, embed.dtype) == ((42, 8, DIM), ml_dtypes.bfloat16)
  assert (mask.shape, mask.dtype) == ((42, 8), bool)
  for caption, tokens, real in zip(asked, embed, mask, strict=True):
    np.testing.assert_array_equal(tokens[real], embed_of(caption))
    assert real.sum() == min(len(caption), 8)
    assert not tokens[~real].any()


def test_the_manifest_counts(tmp_path):
  manifest = write(tmp_path, shard_bytes=2000)
  assert manifest['identity'] == IDENTITY
  assert manifest['num_captions'] == 200
  assert manifest['num_tokens'] == sum(min(len(c), 8) for c in CAPTIONS)
  assert manifest['num_cut'] == sum(len(c) > 8 for c in CAPTIONS) > 0
  assert manifest['stored_dtype'] == 'bfloat16'
  assert json.loads((tmp_path / 'manifest.json').read_text()) == manifest


def test_the_manifest_has_every_files_hash(tmp_path):
  manifest = write(tmp_path, shard_bytes=2000)
  hashes = {
    f'part-000/{name}': value
    for shard in manifest['parts'][0]['shards']
    for name, value in shard['sha256'].items()
  }
  files = contents(tmp_path)
  del files['manifest.json']
  assert hashes == {
    name: hashlib.sha256(value).hexdigest() for name, value in files.items()
  }


def test_a_missing_caption_is_named_and_counted(tmp_path):
  write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  asked = [CAPTIONS[0], 'absent', 'gone', 'absent']
  assert store.missing(asked) == ['absent', 'gone']
  with pytest.raises(
    ValueError, match="lacks 2 of 3 captions, the first 'absent'; run"
  ):
    store.lookup(asked, 8)


def test_a_length_below_a_caption_is_refused(tmp_path):
  write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  with pytest.raises(ValueError, match=r'holds 8 tokens of .*not 5'):
    store.lookup(CAPTIONS, 5)


def test_more_captions_make_a_new_part(tmp_path):
  write(tmp_path, CAPTIONS[:120], shard_bytes=2000)
  before = contents(tmp_path)
  pending = write_store.pending(str(tmp_path), CAPTIONS, IDENTITY)
  assert sorted(pending) == sorted(CAPTIONS[120:])

  manifest = write(tmp_path, pending)

  assert len(manifest['parts']) == 2
  assert manifest['num_captions'] == 200
  after = contents(tmp_path)
  assert {name: after[name] for name in before if name != 'manifest.json'} == {
    name: value for name, value in before.items() if name != 'manifest.json'
  }
  store = store_lib.EmbeddingStore(tmp_path)
  embed, mask = store.lookup(CAPTIONS, 8)
  for caption, tokens, real in zip(CAPTIONS, embed, mask, strict=True):
    np.testing.assert_array_equal(tokens[real], embed_of(caption))
  assert not write_store.pending(str(tmp_path), CAPTIONS, IDENTITY)


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path):
  whole = FakeEncoder()
  write(tmp_path / 'whole', encoder=whole, shard_bytes=2000)
  for batches in (3, 4):
    with pytest.raises(KeyboardInterrupt):
      encoder = FakeEncoder(fail_after=batches)
      write(tmp_path / 'cut', encoder=encoder, shard_bytes=2000)
    with pytest.raises(ValueError, match='not finished; run imagen-jax encode'):
      store_lib.EmbeddingStore(tmp_path / 'cut')
  rest = FakeEncoder()
  write(tmp_path / 'cut', encoder=rest, shard_bytes=2000)
  assert contents(tmp_path / 'cut') == contents(tmp_path / 'whole')
  assert rest.rows < whole.rows


def test_a_stale_shard_is_not_taken(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    write(tmp_path, encoder=FakeEncoder(fail_after=5), shard_bytes=2000)
  assert list(tmp_path.glob('part-000/*.json'))
  changed = IDENTITY | {'checkpoint': 'other'}
  encoder = FakeEncoder()
  # In fewer and larger shards: those of before are of no use.
  manifest = write_store.write(
    str(tmp_path), CAPTIONS, encoder, changed, shard_bytes=4000
  )
  assert encoder.rows == 200
  files = contents(tmp_path)
  assert len(files) == 1 + 2 * len(manifest['parts'][0]['shards'])


def test_two_hosts_write_what_one_does(tmp_path):
  write(tmp_path / 'one', shard_bytes=2000)
  encoders = [FakeEncoder(), FakeEncoder()]

  def second_host():
    # Host 0 waits at its first barrier: let host 1 do its share there.
    if not encoders[1].shapes:
      write_store_of(1, barrier=lambda: None)

  def write_store_of(number, barrier):
    write(
      tmp_path / 'two',
      encoder=encoders[number],
      shard_bytes=2000,
      host=(number, 2),
      barrier=barrier,
    )

  write_store_of(0, second_host)
  assert contents(tmp_path / 'two') == contents(tmp_path / 'one')
  assert encoders[0].rows + encoders[1].rows == 200
  assert min(encoder.rows for encoder in encoders) > 50


def test_batches_have_few_shapes_and_little_padding(tmp_path):
  encoder = FakeEncoder()
  seen = write_store.Progress()

  def report(progress):
    nonlocal seen
    seen = progress

  write(tmp_path, encoder=encoder, report=report)
  assert len(set(encoder.shapes)) <= 4
  assert seen.captions == 200
  assert seen.computed == sum(rows * length for rows, length in encoder.shapes)
  assert seen.tokens == sum(min(len(c), 8) for c in CAPTIONS)
  assert seen.tokens / seen.computed > 0.85


def test_static_lengths_waste_the_least():
  rng = np.random.default_rng(0)
  for num in (1, 2, 3):
    lengths = rng.integers(1, 12, size=40)

    def padded(chosen, lengths=lengths):
      chosen = np.sort(chosen)
      return chosen[np.searchsorted(chosen, lengths)].sum()

    values = np.unique(lengths)
    chosen = write_store.static_lengths(lengths, num)
    assert len(chosen) <= num
    assert chosen[-1] == values[-1]
    # By trying every choice.
    best = min(
      padded([*others, values[-1]])
      for others in itertools.combinations(values[:-1], num - 1)
    )
    assert padded(chosen) == best
  assert write_store.static_lengths(np.array([5, 5]), 4) == [5]


def test_distinct_captions_and_empty_ones():
  captions = ['b', '', 'a', 'b', ' \n', 'a']
  assert write_store.distinct(captions) == (['b', 'a'], 2)


def test_another_identity_is_refused(tmp_path):
  write(tmp_path)
  other = IDENTITY | {'encoder': 'else', 'max_length': 9}
  pattern = (
    "encoder is 'fake' in the store, 'else' in the config; max_length is 8 "
    'in the store, 9 in the config; accepted'
  )
  with pytest.raises(ValueError, match=pattern):
    write_store.pending(str(tmp_path), CAPTIONS, other)
  with pytest.raises(ValueError, match=pattern):
    write_store.write(str(tmp_path), CAPTIONS, FakeEncoder(), other)


def test_check_compares_config_and_weights(tmp_path, monkeypatch):
  write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  text = config_lib.TextConfig('fake', max_length=8, embed_dim=DIM)
  store.check(text, read_checkpoint=False)
  monkeypatch.setattr(identity_lib, 'of', lambda text: dict(IDENTITY))
  store.check(text)
  other = IDENTITY | {'checkpoint': 'd'}
  monkeypatch.setattr(identity_lib, 'of', lambda text: other)
  with pytest.raises(ValueError, match="checkpoint is 'c' in the store, 'd'"):
    store.check(text)
  wide = config_lib.TextConfig('fake', max_length=8, embed_dim=DIM + 1)
  with pytest.raises(ValueError, match='embed_dim is 6 in the store, 7'):
    store.check(wide, read_checkpoint=False)


def test_an_address_is_refused():
  with pytest.raises(ValueError, match="is 'gs://b/s'; accepted: a folder of"):
    store_lib.EmbeddingStore('gs://b/s')
  with pytest.raises(ValueError, match="is 'gs://b/s'; accepted: a folder of"):
    write('gs://b/s')


def test_what_is_no_store_is_refused(tmp_path):
  with pytest.raises(ValueError, match='has no manifest.json: not a store'):
    store_lib.EmbeddingStore(tmp_path)
  (tmp_path / 'manifest.json').write_text('{"format":')
  with pytest.raises(ValueError, match='manifest.json is truncated or corrupt'):
    store_lib.EmbeddingStore(tmp_path)
  (tmp_path / 'manifest.json').write_text('{"format": 9}')
  with pytest.raises(ValueError, match='is of format 9; accepted: 1'):
    store_lib.EmbeddingStore(tmp_path)


@pytest.mark.parametrize('memory_bytes', [0, 2**20])
@pytest.mark.parametrize(
  'damage', ['no index', 'short index', 'no shard', 'short shard']
)
def test_a_damaged_shard_is_refused(tmp_path, damage, memory_bytes):
  write(tmp_path)
  (shard,) = tmp_path.glob('part-000/*.array_record')
  index = shard.with_suffix('.npy')
  if damage == 'no index':
    index.unlink()
  elif damage == 'short index':
    index.write_bytes(index.read_bytes()[:-16])
  elif damage == 'no shard':
    shard.unlink()
  else:
    shard.write_bytes(shard.read_bytes()[:-5000])
  with pytest.raises(ValueError, match='is missing, truncated or corrupt'):
    store = store_lib.EmbeddingStore(tmp_path, memory_bytes=memory_bytes)
    store.lookup(CAPTIONS, 8)


@pytest.mark.parametrize('memory_bytes', [0, 2**20])
def test_an_index_of_other_records_is_refused(tmp_path, memory_bytes):
  others = [f'other {i}' for i in range(len(CAPTIONS))]
  write(tmp_path / 'a')
  write(tmp_path / 'b', others)
  (index,) = (tmp_path / 'b').glob('part-000/*.npy')
  index.replace(tmp_path / 'a' / 'part-000' / index.name)
  store = store_lib.EmbeddingStore(tmp_path / 'a', memory_bytes=memory_bytes)
  with pytest.raises(ValueError, match='a record under the key of another'):
    store.lookup(others, 8)


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
  class Broken(FakeEncoder):
    def encode_tokens(self, tokens, mask):
      return super().encode_tokens(tokens, mask) * np.nan

  with pytest.raises(ValueError, match='is not finite; accepted: finite ones'):
    write(tmp_path, encoder=Broken())


def test_nothing_to_write_and_no_batch_are_refused(tmp_path):
  with pytest.raises(ValueError, match='no captions to encode'):
    write(tmp_path, [])
  with pytest.raises(ValueError, match='--batch-size is 0; accepted: 1'):
    write(tmp_path, batch_size=0)


def test_keys_spread_evenly_over_shards_in_order():
  keys = np.sort(store_lib.keys_of([str(i) for i in range(4000)]))
  shards = store_lib.shards_of(keys, 7)
  assert (np.diff(shards) >= 0).all()
  assert np.bincount(shards, minlength=7).min() > 450


def test_a_lookup_of_64_captions_is_fast(tmp_path):
  write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  store.lookup(CAPTIONS[:64], 8)
  best = float('inf')
  for _ in range(20):
    start = time.perf_counter()
    store.lookup(CAPTIONS[:64], 8)
    best = min(best, time.perf_counter() - start)
  assert best < 5e-3  # About 0.2 ms; what is guarded is re-reading shards.


def test_reading_a_store_needs_neither_jax_nor_tensorflow():
  program = (
    'import sys, imagen_jax.text.store; '
    'sys.exit(any(m in sys.modules for m in ("jax", "tensorflow")))'
  )
  subprocess.run([sys.executable, '-c', program], check=True)
