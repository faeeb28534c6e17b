"""A store that was damaged says where."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest

from imagen_jax.text import codec
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import spool as spool_lib
from imagen_jax.text import verify as verify_lib
from imagen_jax.text import write_store

IDENTITY = {
  'encoder': 'fake',
  'max_length': 8,
  'embed_dim': 4,
  'stored_dtype': 'int8',
}
CAPTIONS = [f'{"abcdefg"[: i % 7]}{i}' for i in range(60)]


class Encoder:
  row_multiple = 1

  @property
  def tokenizer(self):
    return self

  def ragged(self, captions, max_length):
    return [np.array([ord(c) for c in x[:8]]) for x in captions], 0

  def encode_tokens(self, tokens, mask):
    return np.repeat(tokens[..., None], 4, -1).astype(np.float32)


@pytest.fixture
def store(tmp_path):
  write(tmp_path)
  return tmp_path


def write(path):
  sources = [spool_lib.Listed(CAPTIONS)]
  write_store.write(str(path), sources, Encoder(), IDENTITY, shard_bytes=1000)


def rewrite(store, records, keys=None):
  """Replaces shard 1's records, with hashes as if it had been written so."""
  (name,) = store.glob('part-000/shard-000001*.array_record')
  writer = verify_lib.array_record_module.ArrayRecordWriter(
    str(name), 'group_size:1,uncompressed'
  )
  for record in records:
    writer.write(record)
  writer.close()
  if keys is not None:
    np.save(name.with_suffix('.npy'), keys)
  manifest = json.loads((store / 'manifest.json').read_text())
  for file in (name, name.with_suffix('.npy')):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest['parts'][0]['shards'][1]['sha256'][file.name] = digest
  manifest = manifest_lib.sealed(manifest)
  (store / 'manifest.json').write_text(json.dumps(manifest))


def read(store):
  """Shard 1's records and keys."""
  (name,) = store.glob('part-000/shard-000001*.array_record')
  reader = verify_lib.array_record_module.ArrayRecordReader(str(name))
  return list(reader.read_all()), np.load(name.with_suffix('.npy'))


def test_a_whole_store_is_right(store):
  seen = []
  manifest, wrong = verify_lib.verify(
    store.as_posix(), lambda *a: seen.append(a)
  )
  assert manifest == manifest_lib.read(str(store))
  assert not wrong
  assert len(seen) > 2
  assert seen[-1] == (len(seen), len(seen))


@pytest.mark.parametrize('where', [0, 70_000, -1])
def test_any_changed_byte_is_found(store, where):
  (name,) = store.glob('part-000/shard-000000*.array_record')
  contents = bytearray(name.read_bytes())
  contents[where if where < len(contents) else len(contents) // 2] ^= 1
  name.write_bytes(contents)
  _, wrong = verify_lib.verify(str(store))
  (found,) = wrong.items()
  assert found[0].startswith('part-000/shard-000000-of-')
  assert 'array_record: not the bytes that were written' in found[1][0]


@pytest.mark.parametrize('suffix', ['npy', 'array_record'])
@pytest.mark.parametrize('left', [0, 100, -1])
def test_truncated_files_are_found(store, suffix, left):
  (name,) = store.glob(f'part-000/shard-000001*.{suffix}')
  name.write_bytes(name.read_bytes()[:left])
  _, wrong = verify_lib.verify(str(store))
  ((shard, reasons),) = wrong.items()
  assert 'shard-000001' in shard
  assert f'{suffix}: not the bytes that were written' in reasons[0]


def test_missing_files_are_found(store):
  for suffix in ('npy', 'array_record'):
    (name,) = store.glob(f'part-000/shard-000002*.{suffix}')
    name.unlink()
  _, wrong = verify_lib.verify(str(store))
  ((shard, reasons),) = wrong.items()
  assert 'shard-000002' in shard
  assert [r.split(': ')[1] for r in reasons] == ['missing'] * 2


def test_a_bucket_is_verified_as_a_folder_is(folder_bucket):
  write(folder_bucket)
  _, wrong = verify_lib.verify('gs://bucket')
  assert not wrong
  (name,) = folder_bucket.glob('part-000/shard-000001*.array_record')
  contents = bytearray(name.read_bytes())
  contents[70_000] ^= 1
  name.write_bytes(contents)
  (index,) = folder_bucket.glob('part-000/shard-000002*.npy')
  index.unlink()
  _, wrong = verify_lib.verify('gs://bucket')
  first, second = wrong.values()
  assert 'array_record: not the bytes that were written' in first[0]
  assert second == [f'{index.name}: missing']


def test_records_of_others_and_what_is_not_finite_are_counted(store):
  records, keys = read(store)
  records[3], records[4] = records[4], records[3]
  nan = np.full((2, 4), np.nan, ml_dtypes.bfloat16)
  nan = codec.encode(keys[6], nan, 'bfloat16')[:16]
  scale = np.full(2, np.nan, '<f4').tobytes()
  records[6] = nan + scale + bytes(8)
  records[7] = records[7][:-1]
  rewrite(store, records)
  _, wrong = verify_lib.verify(str(store))
  ((_, (reason,)),) = wrong.items()
  assert reason.startswith(f'4 of {len(records)} records are corrupt; record 3')
  assert reason.endswith('under the key of another')


def test_keys_out_of_order_and_counts_are_found(store):
  records, keys = read(store)
  rewrite(store, records[::-1], keys[::-1])
  _, wrong = verify_lib.verify(str(store))
  assert list(wrong.values()) == [['keys out of order']]
  rewrite(store, records[1:], keys[1:])
  _, wrong = verify_lib.verify(str(store))
  ((reason,),) = wrong.values()
  n = len(keys)
  assert reason == f'{n - 1} records, {n - 1} keys; {n} by the manifest'


def test_a_token_too_few_is_found(store):
  """A record that is sound, and shorter than the one that was written."""
  records, keys = read(store)
  row = max(range(len(records)), key=lambda row: len(records[row]))
  _, embed = codec.decode(records[row], 4, 'int8')
  records[row] = codec.encode(keys[row], embed[:-1], 'int8')
  rewrite(store, records)
  _, wrong = verify_lib.verify(str(store))
  ((reason,),) = wrong.values()
  notes = manifest_lib.read(str(store))['parts'][0]['shards']
  expected = notes[1]['tokens']
  assert reason == f'{expected - 1} tokens; {expected} by the manifest'


def test_keys_of_another_shard_are_found(store):
  records, keys = read(store)
  (other,) = store.glob('part-000/shard-000000*.npy')
  keys[0] = np.load(other)[0]  # Still in order.
  records[0] = keys[0].ljust(16, b'\0') + records[0][16:]
  rewrite(store, records, keys)
  _, wrong = verify_lib.verify(str(store))
  assert list(wrong.values()) == [['keys of another shard']]


def test_what_is_no_store_is_refused(tmp_path):
  with pytest.raises(ValueError, match='has no manifest.json: not a store'):
    verify_lib.verify(str(tmp_path))
