"""The file layer, with a bucket that is faked on loopback."""

import os
import subprocess
import sys

import fake_gcs
import pytest

from imagen_jax import storage


def test_a_bucket_is_a_folder_like_others(bucket):
  folder = storage.Path(f'gs://{bucket}/a/b')
  assert not folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'text').write_text('words')
  (folder / 'c' / 'large').write_bytes(bytes(6 << 20))  # More than one chunk.
  assert sorted(path.name for path in folder.iterdir()) == ['c', 'text']
  assert (folder / 'text').read_text() == 'words'
  assert (folder / 'c' / 'large').read_bytes() == bytes(6 << 20)
  (folder / 'text').replace(folder / 'new.txt')
  assert [path.name for path in folder.glob('*.txt')] == ['new.txt']
  folder.rmtree()
  assert not folder.exists()


def test_a_listing_is_of_now(bucket, storage_server):
  """Another host may have written since the last one."""
  folder = storage.Path(f'gs://{bucket}/a')
  (folder / 'b').write_text('mine')
  assert [path.name for path in folder.iterdir()] == ['b']
  storage_server.put(bucket, 'a/c', b'its')
  assert [path.name for path in folder.iterdir()] == ['b', 'c']
  assert (folder / 'c').exists()


def test_a_listing_of_many_pages_is_whole(bucket, storage_server):
  names = [f'a/{number:04d}' for number in range(130)]
  for name in names:
    storage_server.put(bucket, name, b'')
  found = storage.Path(f'gs://{bucket}/a').iterdir()
  assert [f'a/{path.name}' for path in found] == names


def test_reads_and_writes_in_one_piece(bucket, storage_server, tmp_path):
  path = f'gs://{bucket}/a/b'
  assert storage.read(path, '--x') is None
  storage.write(path, b'data', '--x')
  assert storage.read(storage.Path(path), '--x') == b'data'
  assert storage_server.names(bucket) == ['a/b']
  (tmp_path / 'file').write_bytes(b'local')
  assert storage.read(tmp_path / 'file', '--x') == b'local'
  assert storage.read(tmp_path / 'none', '--x') is None
  assert storage.read(tmp_path, '--x') is None
  storage.write(tmp_path / 'new' / 'file', b'here', '--x')
  assert storage.read(tmp_path / 'new' / 'file', '--x') == b'here'
  words = f'^--x {tmp_path}/file/below cannot be written: '
  with pytest.raises(ValueError, match=words):
    storage.write(tmp_path / 'file' / 'below', b'', '--x')


def test_to_ask_leaves_nothing(bucket, storage_server, tmp_path):
  storage.check_writable(f'gs://{bucket}/a/', '--x')
  storage.check_bucket(f'gs://{bucket}/a', '--x')
  assert storage_server.names(bucket) == []
  storage.check_writable(str(tmp_path / 'none'), '--x')
  storage.check_bucket(str(tmp_path / 'none'), '--x')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'right, ask, words',
  [
    ('read', lambda p: storage.read(p, '--x'), 'read: PERMISSION_DENIED'),
    ('write', lambda p: storage.write(p, b'', '--x'), 'written: PERMISSION_D'),
    (
      'write',
      lambda p: storage.check_writable(p, '--x'),
      'written: PERMISSION_DENIED: no permission to write',
    ),
    (
      'delete',
      lambda p: storage.check_writable(p, '--x'),
      'written: PERMISSION_DENIED: no permission to delete',
    ),
    (
      'bucket',
      lambda p: storage.check_bucket(p, '--x'),
      'used: .*no permission to bucket .*; it takes the right storage.buckets',
    ),
  ],
)
def test_what_is_not_allowed_is_one_line(
  right, ask, words, bucket, storage_server
):
  storage_server.denied.add((right, bucket))
  path = f'gs://{bucket}/a'
  with pytest.raises(ValueError, match=f'^--x {path} cannot be {words}') as one:
    ask(path)
  assert '\n' not in str(one.value)
  storage_server.denied.clear()
  ask(path)


@pytest.mark.parametrize(
  'ask, words',
  [
    (
      lambda p: storage.check_writable(p, '--x'),
      'written: NOT_FOUND: The specified bucket does not exist',
    ),
    (
      lambda p: storage.check_bucket(p, '--x'),
      'used: there is no bucket no-such-bucket',
    ),
    (lambda p: storage.read('gs://b/a', '--x'), 'Invalid GCS bucket name'),
  ],
)
def test_a_bucket_that_is_not_there(ask, words, storage_server):
  with pytest.raises(ValueError, match=words):
    ask('gs://no-such-bucket/a')


def test_tensorflow_stays_out(bucket, storage_server):
  """In a process of its own, as this one has it."""
  code = f"""
import sys
from imagen_jax import storage
path = storage.Path('gs://{bucket}/a')
(path / 'b').write_text('c')
assert [p.name for p in path.iterdir()] == ['b']
assert 'gcsfs' in sys.modules
assert 'tensorflow' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', code], check=True)
  assert storage_server.names(bucket) == ['a/b']


@pytest.mark.slow
def test_without_a_network_it_takes_seconds():
  code = """
import time
from imagen_jax import storage
for ask in (storage.read, storage.check_writable, storage.check_bucket):
  start = time.monotonic()
  try:
    ask('gs://some-bucket/a', '--x')
    raise AssertionError('an answer')
  except ValueError as error:
    assert str(error).startswith('--x gs://some-bucket/a cannot be '), error
  assert time.monotonic() - start < 30
"""
  # A port that nobody listens on.
  gone = fake_gcs.environment('http://127.0.0.1:9')
  subprocess.run(
    [sys.executable, '-c', code], env={**os.environ, **gone}, check=True
  )
