"""Shards that vanish or change, and buckets that do not answer."""

import contextlib
import dataclasses
import errno
import os
import socket
import threading

from batches import take
import fsspec
import pytest
import shard_files
from source_records import KINDS
from source_records import opened
from source_records import outcome
from source_records import some

from imagen_jax import storage
from imagen_jax.data import records as records_lib
from imagen_jax.shards import files


@pytest.mark.parametrize('kind', KINDS[:-1])
def test_a_shard_that_vanishes_is_bad_records(tmp_path, kind, monkeypatch):
  monkeypatch.setattr(storage, 'WAITS', ())
  task = shard_files.indexed(kind, tmp_path, some())
  records = opened(task)
  (tmp_path / f'00001.{shard_files.ENDINGS[kind]}').unlink()
  for some_records in (records, opened(task, share=0.5)):
    found = [outcome(some_records, number) for number in (0, 4, 7, 8)]
    assert found == ['000000000'] + ['shard is gone'] * 2 + ['000000008']
    assert some_records.key(4) == '#4'


@pytest.mark.parametrize('kind', KINDS[:-1])
def test_a_shard_that_changes_is_bad_records(tmp_path, kind):
  task = shard_files.indexed(kind, tmp_path, some())
  records = opened(task)
  path = tmp_path / f'00001.{shard_files.ENDINGS[kind]}'
  path.write_bytes(path.read_bytes()[:300])
  found = [outcome(records, number) for number in (0, 4, 8)]
  assert found == ['000000000', 'shard has changed', '000000008']


@pytest.mark.parametrize('kind', KINDS[:-1])
def test_a_shard_of_the_same_size_is_another(tmp_path, kind):
  """By the time of its change alone."""
  task = shard_files.indexed(kind, tmp_path, some())
  records = opened(task)
  path = tmp_path / f'00001.{shard_files.ENDINGS[kind]}'
  os.utime(path, ns=(0, 0))
  found = [outcome(records, number) for number in (0, 4, 8)]
  assert found == ['000000000', 'shard has changed', '000000008']


def test_shards_that_are_gone_are_so_many_bad_records(toy, tmp_path):
  """Of twenty records one shard has four."""
  task = shard_files.indexed('webdataset', tmp_path, some(20))
  (tmp_path / '00001.tar').unlink()
  few = toy.config(task, max_bad_share=0.19)
  with pytest.raises(ValueError, match=r'4 of 20 .*max_bad_share \(0.19\)'):
    take(few, 1)
  enough = toy.config(task, max_bad_share=0.2)
  keys = {key for batch in take(enough, 5) for key in batch['key']}
  assert keys == {f'{n:09d}' for n in range(20) if not 4 <= n < 8}


@pytest.mark.parametrize('kind', ('webdataset', 'tfrecord', 'parquet'))
def test_a_shard_in_a_bucket_is_read_and_may_vanish(
  tmp_path, kind, bucket, storage_server
):
  shard_files.write_many(kind, tmp_path, some())
  storage_server.upload(tmp_path, bucket, 'a')
  task = shard_files.task(kind, f'gs://{bucket}/a')
  shard_files.index(task)
  records = opened(task)
  assert [records.read(n).key for n in (0, 9)] == ['000000000', '000000009']
  del storage_server.buckets[bucket][f'a/00001.{shard_files.ENDINGS[kind]}']
  assert outcome(records, 4) == 'shard is gone'


def test_a_bucket_that_refuses_is_no_bad_record(
  tmp_path, bucket, storage_server, monkeypatch
):
  waited = []
  monkeypatch.setattr(records_lib.time, 'sleep', waited.append)
  shard_files.write_many('webdataset', tmp_path, some())
  storage_server.upload(tmp_path, bucket, 'a')
  task = shard_files.task('webdataset', f'gs://{bucket}/a')
  shard_files.index(task)
  records = opened(task)
  storage_server.denied.add(('read', bucket))
  with pytest.raises(
    records_lib.UnreachableError, match='record 4 of .*Forbidden'
  ):
    records.read(4)
  assert waited == list(storage.WAITS)


@pytest.fixture
def silent_bucket(monkeypatch):
  """Storage that takes connections and never answers; lists those it took."""
  layers = fsspec.get_filesystem_class('gs'), files._of_scheme
  taken = []
  with socket.create_server(('127.0.0.1', 0)) as server:

    def take():
      with contextlib.suppress(OSError):
        while True:
          taken.append(server.accept()[0])

    threading.Thread(target=take, daemon=True).start()
    place = f'http://127.0.0.1:{server.getsockname()[1]}'
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', place)
    layers[0].clear_instance_cache(), layers[1].cache_clear()
    yield taken
    server.shutdown(socket.SHUT_RDWR)
  layers[0].clear_instance_cache(), layers[1].cache_clear()
  for connection in taken:
    connection.close()


def test_a_bucket_that_never_answers_is_asked_again_and_named(
  tmp_path, silent_bucket, monkeypatch
):
  waited = []
  monkeypatch.setattr(records_lib.time, 'sleep', waited.append)
  monkeypatch.setattr(storage, 'WAITS', (1, 2))
  monkeypatch.setattr(files, '_PATIENCE', 0.2)
  records = opened(shard_files.indexed('webdataset', tmp_path, some()))
  shards = records._table._index.files
  shards[0] = dataclasses.replace(shards[0], path='gs://some/00000.tar')
  with pytest.raises(
    records_lib.UnreachableError,
    match='record 0 .*gs://some/00000.tar: no answer within 0.2 s',
  ):
    records.read(0)
  assert waited == [1, 2] and len(silent_bucket) >= 3


@pytest.mark.parametrize('good', [0, 40])
def test_a_disk_that_fails_ends_a_run_with_its_own_line(
  toy, tmp_path, monkeypatch, good
):
  """At its first record, or later: not with pages of TensorFlow's."""
  monkeypatch.setattr(storage, 'WAITS', ())
  config = toy.config(shard_files.indexed('webdataset', tmp_path, some(20)))
  read, left = os.pread, [good]

  def fails(file, *args):
    left[0] -= os.readlink(f'/proc/self/fd/{file}').endswith('.tar')
    if left[0] < 0:
      raise OSError(errno.EIO, 'Input/output error')
    return read(file, *args)

  monkeypatch.setattr(os, 'pread', fails)
  with pytest.raises(
    records_lib.UnreachableError,
    match=r"^data.tasks\[.*\]: record \d+ of 'train' cannot be read: "
    rf".*Input/output error: '{tmp_path}/0000\d.tar'$",
  ):
    take(config, 100)


@pytest.mark.parametrize('kind', ['webdataset', 'folder'])
def test_a_disk_that_fails_is_no_bad_record(tmp_path, kind, monkeypatch):
  """Its message names the file."""
  monkeypatch.setattr(storage, 'WAITS', ())
  task = shard_files.indexed(kind, tmp_path, some())
  records = opened(task)
  full = files._named

  @contextlib.contextmanager
  def fails(path):
    with full(path):
      yield
      if not path.endswith('.jsonl'):
        raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(files, '_named', fails)
  with pytest.raises(
    records_lib.UnreachableError, match=rf"output error: '{tmp_path}/.*\.\w+'$"
  ):
    records.read(4)


def test_every_request_to_a_bucket_has_a_timeout(silent_bucket, monkeypatch):
  monkeypatch.setattr(files, '_PATIENCE_OTHERS', 0.2)
  with pytest.raises(ValueError, match='path gs://some/x cannot be read'):
    files.stat('gs://some/x', 'path')
  options = {}
  monkeypatch.setattr(
    files.fsspec, 'filesystem', lambda scheme, **given: options.update(given)
  )
  files._of_scheme.__wrapped__('s3')
  times = options['config_kwargs']
  assert times == {'connect_timeout': 20, 'read_timeout': 60}
