"""Shards in s3://, of a server that moto fakes on this machine."""

import fsspec
import pytest
import shard_files
from source_records import opened
from source_records import outcome
from source_records import some

from imagen_jax import storage
from imagen_jax.data import records as records_lib
from imagen_jax.shards import files


@pytest.fixture
def server(monkeypatch):
  """A server of buckets, which the layer of s3:// asks."""
  pytest.importorskip('s3fs', reason='the extra s3 is not here')
  moto_server = pytest.importorskip(
    'moto.server', reason="moto is not here (pip install 'moto[server]')"
  )
  monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'some')
  monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'some')
  monkeypatch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
  running = moto_server.ThreadedMotoServer('127.0.0.1', 0, verbose=False)
  running.start()
  host, port = running.get_host_and_port()
  monkeypatch.setenv('AWS_ENDPOINT_URL', f'http://{host}:{port}')
  layer = fsspec.get_filesystem_class('s3')
  layer.clear_instance_cache(), files._of_scheme.cache_clear()
  yield running
  layer.clear_instance_cache(), files._of_scheme.cache_clear()
  running.stop()


@pytest.mark.parametrize(
  'kind', ['webdataset', 'tfrecord', 'parquet', 'folder']
)
def test_shards_of_s3_are_indexed_read_and_may_vanish(
  tmp_path, kind, server, monkeypatch
):
  monkeypatch.setattr(storage, 'WAITS', ())
  if kind == 'folder':
    shard_files.write_folder(tmp_path, some())
  else:
    shard_files.write_many(kind, tmp_path, some())
  layer = fsspec.filesystem('s3')
  layer.mkdir(kind)  # The fake's buckets outlive its servers.
  layer.put(f'{tmp_path}/', f's3://{kind}/a/', recursive=True)
  task = shard_files.task(kind, f's3://{kind}/a')
  assert shard_files.index(task).records == 10
  here = shard_files.task(kind, tmp_path)
  shard_files.index(here)
  records = opened(task)
  assert records.fingerprint == opened(here).fingerprint
  if kind != 'folder':
    layer.rm(f's3://{kind}/a/00001.{shard_files.ENDINGS[kind]}')
    found = [outcome(opened(task, share=0.5), n) for n in (0, 4, 8)]
    assert found == ['000000000', 'shard is gone', '000000008']
  server.stop()
  with pytest.raises(records_lib.UnreachableError, match='record 0 of .*s3://'):
    records.read(0)
