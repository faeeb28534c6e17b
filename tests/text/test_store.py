"""The store of embeddings: looked up, compared, damaged."""

import subprocess
import sys
import time

import fake_store
import ml_dtypes
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax.text import identity as identity_lib
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import spool as spool_lib
from imagen_jax.text import store as store_lib


@pytest.mark.parametrize('memory_bytes', [0, 2**20])
@pytest.mark.parametrize('shard_bytes', [2**30, 2000, 600])
def test_what_is_written_is_looked_up(tmp_path, shard_bytes, memory_bytes):
  manifest = fake_store.write(tmp_path, shard_bytes=shard_bytes)
  store = store_lib.EmbeddingStore(tmp_path, memory_bytes=memory_bytes)
  num_shards = len(manifest['parts'][0]['shards'])
  assert num_shards == {2**30: 1, 2000: 8, 600: 27}[shard_bytes]
  assert len(store) == 200

  asked = [
    *fake_store.CAPTIONS[50:90],
    fake_store.CAPTIONS[3],
    fake_store.CAPTIONS[60],
  ]
  embed, mask = store.lookup(asked, 8)

  assert (embed.shape, embed.dtype) == (
    (42, 8, fake_store.DIM),
    ml_dtypes.bfloat16,
  )
  assert (mask.shape, mask.dtype) == ((42, 8), bool)
  for caption, tokens, real in zip(asked, embed, mask, strict=True):
    np.testing.assert_array_equal(tokens[real], fake_store.embed_of(caption))
    assert real.sum() == min(len(caption), 8)
    assert not tokens[~real].any()


def test_a_missing_caption_is_named_and_counted(tmp_path):
  fake_store.write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  asked = [fake_store.CAPTIONS[0], 'absent', 'gone', 'absent']
  assert store.missing(asked) == ['absent', 'gone']
  with pytest.raises(
    ValueError, match="lacks 2 of 3 captions, the first 'absent'; run"
  ):
    store.lookup(asked, 8)


def test_a_length_below_a_caption_is_refused(tmp_path):
  fake_store.write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  with pytest.raises(ValueError, match=r'holds 8 tokens of .*not 5'):
    store.lookup(fake_store.CAPTIONS, 5)


@pytest.mark.parametrize('name', fake_store.IDENTITY)
def test_what_differs_is_named(name):
  manifest = {'identity': fake_store.IDENTITY}
  other = fake_store.IDENTITY | {name: 'other'}
  was = fake_store.IDENTITY[name]
  words = f"config asks for: {name} is {was!r} in the store, 'other' in"
  with pytest.raises(ValueError, match=words):
    manifest_lib.check_identity('s', manifest, other)


def test_check_compares_config_and_weights(tmp_path, monkeypatch):
  fake_store.write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  text = config_lib.TextConfig('fake', max_length=8, embed_dim=fake_store.DIM)
  monkeypatch.setattr(
    identity_lib, 'of', lambda text: dict(fake_store.IDENTITY)
  )
  store.check(text)
  other = fake_store.IDENTITY | {'checkpoint': 'd'}
  monkeypatch.setattr(identity_lib, 'of', lambda text: other)
  with pytest.raises(ValueError, match="checkpoint is 'c' in the store, 'd'"):
    store.check(text)
  monkeypatch.setattr(
    identity_lib,
    'of',
    lambda text: identity_lib.declared(text) | {'checkpoint': 'c'},
  )
  wide = config_lib.TextConfig(
    'fake', max_length=8, embed_dim=fake_store.DIM + 1
  )
  with pytest.raises(ValueError, match='embed_dim is 6 in the store, 7'):
    store.check(wide)


def test_a_bucket_is_read_as_a_folder_is(folder_bucket):
  """With a local folder behind the address; ArrayRecord reads gs:// itself."""
  fake_store.write(folder_bucket / 's', shard_bytes=2000)
  store = store_lib.EmbeddingStore('gs://bucket/s/', memory_bytes=0)
  embed, _ = store.lookup(fake_store.CAPTIONS[:3], 8)
  np.testing.assert_array_equal(
    embed[2, :3], fake_store.embed_of(fake_store.CAPTIONS[2])[:3]
  )


def test_what_is_no_store_is_refused(tmp_path):
  with pytest.raises(ValueError, match='has no manifest.json: not a store'):
    store_lib.EmbeddingStore(tmp_path)
  (tmp_path / 'manifest.json').write_text('{"format":')
  with pytest.raises(ValueError, match='manifest.json is truncated or corrupt'):
    store_lib.EmbeddingStore(tmp_path)
  (tmp_path / 'manifest.json').write_text('{"format": 9}')
  with pytest.raises(ValueError, match='is of format 9; accepted: 3'):
    store_lib.EmbeddingStore(tmp_path)


@pytest.mark.parametrize(
  'old, new',
  [
    ('"num_captions": ', '"num_captions": 9'),
    ('"captions": ', '"captionz": '),
    ('"parts"', '"part"'),
    ('"identity"', '"identities"'),
  ],
)
def test_a_damaged_manifest_is_refused(tmp_path, old, new):
  fake_store.write(tmp_path, shard_bytes=2000)
  file = tmp_path / 'manifest.json'
  text = file.read_text()
  assert old in text
  file.write_text(text.replace(old, new, 1))
  with pytest.raises(ValueError, match='manifest.json is not what was written'):
    store_lib.EmbeddingStore(tmp_path)


@pytest.mark.parametrize('memory_bytes', [0, 2**20])
@pytest.mark.parametrize(
  'damage',
  ['no index', 'short index', 'empty index', 'no shard', 'short shard'],
)
def test_a_damaged_shard_is_refused(tmp_path, damage, memory_bytes):
  fake_store.write(tmp_path)
  (shard,) = tmp_path.glob('part-000/*.array_record')
  index = shard.with_suffix('.npy')
  if damage == 'no index':
    index.unlink()
  elif damage == 'empty index':
    index.write_bytes(b'')
  elif damage == 'short index':
    index.write_bytes(index.read_bytes()[:-16])
  elif damage == 'no shard':
    shard.unlink()
  else:
    shard.write_bytes(shard.read_bytes()[:-5000])
  with pytest.raises(ValueError, match='is missing, truncated or corrupt'):
    store = store_lib.EmbeddingStore(tmp_path, memory_bytes=memory_bytes)
    store.lookup(fake_store.CAPTIONS, 8)


@pytest.mark.parametrize('memory_bytes', [0, 2**20])
def test_an_index_of_other_records_is_refused(tmp_path, memory_bytes):
  others = [f'other {i}' for i in range(len(fake_store.CAPTIONS))]
  fake_store.write(tmp_path / 'a')
  fake_store.write(tmp_path / 'b', others)
  (index,) = (tmp_path / 'b').glob('part-000/*.npy')
  index.replace(tmp_path / 'a' / 'part-000' / index.name)
  store = store_lib.EmbeddingStore(tmp_path / 'a', memory_bytes=memory_bytes)
  with pytest.raises(ValueError, match='a record under the key of another'):
    store.lookup(others, 8)


def test_captions_known_to_be_missing_are_told(tmp_path):
  fake_store.write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  store.check_covers(
    [spool_lib.Listed(fake_store.CAPTIONS)], most=0
  )  # Nothing is read.
  store.check_covers([spool_lib.Listed(fake_store.CAPTIONS[:50])])
  more = spool_lib.Listed([*fake_store.CAPTIONS, 'absent', 'gone', 'absent'])
  pattern = (
    'lacks 2 of the 202 captions of list, of which 203 of 203 records were '
    "looked at; the first is 'absent'; run imagen-jax encode"
  )
  with pytest.raises(ValueError, match=pattern):
    store.check_covers([more])
  with pytest.raises(ValueError, match='51 of 203 records were looked at'):
    store.check_covers([more], most=51)


def test_a_source_is_looked_at_in_one_call(tmp_path):
  """So that one in a bucket can read its records side by side."""
  asked = []

  class Source(spool_lib.Listed):
    def read(self, indices):
      asked.append(list(indices))
      return super().read(indices)

  fake_store.write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  store.check_covers([Source(fake_store.CAPTIONS[:50])], most=20)
  assert asked == [list(range(0, 50, 3))]


def test_keys_spread_evenly_over_shards_in_order():
  keys = np.sort(manifest_lib.keys_of([str(i) for i in range(4000)]))
  shards = manifest_lib.shards_of(keys, 7)
  assert (np.diff(shards) >= 0).all()
  assert np.bincount(shards, minlength=7).min() > 450


def test_a_lookup_of_64_captions_is_fast(tmp_path):
  fake_store.write(tmp_path)
  store = store_lib.EmbeddingStore(tmp_path)
  store.lookup(fake_store.CAPTIONS[:64], 8)
  best = float('inf')
  for _ in range(20):
    start = time.perf_counter()
    store.lookup(fake_store.CAPTIONS[:64], 8)
    best = min(best, time.perf_counter() - start)
  assert best < 5e-3  # About 0.2 ms; what is guarded is re-reading shards.


def test_reading_a_store_needs_neither_jax_nor_tensorflow():
  program = (
    'import sys, imagen_jax.text.store; '
    'sys.exit(any(m in sys.modules for m in ("jax", "tensorflow")))'
  )
  subprocess.run([sys.executable, '-c', program], check=True)
