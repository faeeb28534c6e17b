"""Making an index, finding it again, and refusing one that does not fit."""

import os

import fsspec
import numpy as np
import pytest
import shard_files

from imagen_jax.shards import build
from imagen_jax.shards import files
from imagen_jax.shards import index as index_lib
from imagen_jax.shards import place as place_lib
from imagen_jax.shards import tar

KINDS = ('webdataset', 'tfrecord', 'arrayrecord', 'parquet', 'folder')


def load(task, share=0.0):
  return index_lib.load(place_lib.of(task), max_missing_share=share)


def write(kind, folder, count=10):
  records = map(shard_files.record, range(count))
  paths = shard_files.write_many(kind, folder, records)
  return shard_files.task(kind, folder), paths


@pytest.mark.parametrize('kind', KINDS)
def test_an_index_knows_every_record(tmp_path, kind):
  task, paths = write(kind, tmp_path)
  report = shard_files.index(task)
  assert (report.shards, report.records) == (len(paths), 10)
  assert (report.missing, report.damaged, report.done) == ([], [], True)
  index = load(task)
  assert len(index) == 10
  assert [file.path for file in index.files] == list(map(str, paths))
  if kind != 'folder':
    places = [(n // 4, n % 4) for n in range(10)]
    assert [index.locate(number) for number in range(10)] == places
  for number in (-1, 10):
    with pytest.raises(IndexError):
      index.locate(number)


def test_a_record_costs_four_bytes(tmp_path):
  task, paths = write('webdataset', tmp_path)
  shard_files.index(task)
  entries = tmp_path.glob('*.index/entries')
  assert [file.stat().st_size for file in entries] == [4 * (10 + len(paths))]
  entries = load(task)._entries
  assert isinstance(entries, np.memmap)


def test_entries_are_wide_where_shards_are_large():
  def of(kind, size):
    return index_lib.dtype(kind, [files.File('x', size, '')]).itemsize

  assert of('tfrecord', 2**32 - 1) == 4
  assert of('tfrecord', 2**32) == 8
  assert of('webdataset', 2**40) == 4
  assert of('webdataset', 2**41) == 8


def test_spans_are_those_of_the_records(tmp_path):
  task, paths = write('webdataset', tmp_path)
  shard_files.index(task)
  index = load(task)
  for number in range(10):
    shard, inside = index.locate(number)
    record = index.files[shard].read(*index.span(shard, inside))
    assert tar.fields(record)['txt'] == f'picture {number}'.encode()


def test_shards_go_by_braces_and_stars_in_order(tmp_path):
  write('webdataset', tmp_path)
  task = shard_files.task('webdataset', tmp_path / '{00002..00000}.tar')
  with pytest.raises(ValueError, match='accepted: braces'):
    shard_files.index(task)
  task = shard_files.task('webdataset', tmp_path / '{00002,00000,00007}.tar')
  report = shard_files.index(task)
  assert report.missing == [str(tmp_path / '00007.tar')]
  assert [shard.name for shard in load(task).shards] == [
    '00002.tar',
    '00000.tar',
  ]
  task = shard_files.task('webdataset', tmp_path / '0000[01]*')
  shard_files.index(task)
  assert len(load(task)) == 8


def test_processes_find_what_one_finds(tmp_path):
  task, _ = write('webdataset', tmp_path)
  done = []
  shard_files.index(task, workers=2, progress=lambda *now: done.append(now))
  assert done == [(1, 3), (2, 3), (3, 3)]
  several = load(task)
  for folder in tmp_path.glob('*.index'):
    for file in folder.iterdir():
      file.unlink()
  shard_files.index(task)
  assert load(task).digest == several.digest
  np.testing.assert_array_equal(load(task)._entries, several._entries)


def test_machines_share_the_shards_and_one_puts_them_together(
  tmp_path, monkeypatch
):
  task, _ = write('tfrecord', tmp_path)
  for number in range(2):
    report = shard_files.index(task, part=(number, 2))
    assert (report.shards, report.done) == (2 - number, False)
  with pytest.raises(ValueError, match='has no index in'):
    load(task)
  # All are scanned: what was found is put together.
  monkeypatch.setitem(build._SCANS, 'tfrecord', None)
  assert shard_files.index(task).records == 10
  assert len(load(task)) == 10


def test_a_build_that_was_killed_goes_on(tmp_path, monkeypatch):
  task, paths = write('webdataset', tmp_path)
  scanned = []

  def scan(file):
    if len(scanned) == 2:
      raise KeyboardInterrupt
    scanned.append(file.path)
    return tar.scan(file)

  monkeypatch.setitem(build._SCANS, 'webdataset', scan)
  with pytest.raises(KeyboardInterrupt):
    shard_files.index(task)
  scanned[:] = []
  # One that has changed since is scanned again.
  shard_files.write('webdataset', paths[0], [shard_files.record(50)])
  shard_files.index(task)
  assert scanned == [str(paths[0]), str(paths[2])]
  assert len(load(task)) == 7


def test_damage_is_told(tmp_path):
  task, paths = write('webdataset', tmp_path)
  paths[1].write_bytes(paths[1].read_bytes()[:9000])
  report = shard_files.index(task)
  (damaged,) = report.damaged
  assert damaged.startswith('00001.tar: it is cut at byte ')
  assert 6 <= report.records < 10


@pytest.mark.parametrize('kind', KINDS)
def test_shards_without_records_are_refused(tmp_path, kind):
  for path in write(kind, tmp_path)[1]:
    path.write_bytes(b'')
  with pytest.raises(ValueError, match=r'has no records in \d shards'):
    shard_files.index(shard_files.task(kind, tmp_path))


def test_no_shards_are_refused(tmp_path):
  task = shard_files.task('webdataset', tmp_path)
  with pytest.raises(
    ValueError, match=r'names no file that is there; acc.*tar'
  ):
    shard_files.index(task)
  with pytest.raises(
    ValueError, match='path is .*; accepted: a path of shards'
  ):
    place_lib.of(shard_files.task('webdataset', ''))
  with pytest.raises(ValueError, match='which are what ArrayRecord reads'):
    place_lib.of(shard_files.task('arrayrecord', 's3://a/b'))


def test_a_missing_index_is_refused_with_the_command(tmp_path):
  task, _ = write('webdataset', tmp_path)
  words = (
    r'data.tasks\[some\].index has no index in .*; accepted: what `imagen-jax '
    'data index --config CONFIG --task some` writes'
  )
  with pytest.raises(ValueError, match=words):
    load(task)


def test_other_shards_than_were_indexed_are_refused(tmp_path):
  task, paths = write('webdataset', tmp_path)
  shard_files.index(task)
  stat = paths[0].stat()
  os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
  with pytest.raises(
    ValueError, match='before 1 of the shards ch.*: 00000.tar'
  ):
    load(task)
  shard_files.index(task)
  load(task)
  shard_files.write('webdataset', tmp_path / '9.tar', [shard_files.record(9)])
  with pytest.raises(ValueError, match='lacks 1 of the shards: 9.tar; acc'):
    load(task)


def test_shards_that_are_gone_may_be_few(tmp_path, caplog):
  task, paths = write('webdataset', tmp_path)
  shard_files.index(task)
  paths[2].unlink()
  words = r'are gone \(00002.tar\) with 2 of 10 records; accepted: a share'
  with pytest.raises(ValueError, match=words):
    load(task, 0.1)
  assert len(load(task, 0.2)) == 10
  assert '1 shards are gone (00002.tar); their 2 of 10' in caplog.text


def test_an_index_of_something_else_is_refused(tmp_path):
  task, _ = write('webdataset', tmp_path)
  shard_files.index(task)
  (folder,) = tmp_path.glob('*.index')
  for text in ('{}', 'no JSON', '{"format": 1, "kind": "parquet"}'):
    (folder / 'index.json').write_text(text)
    with pytest.raises(ValueError, match='which is no index of webdataset'):
      load(task)
  shard_files.index(task)
  entries = (folder / 'entries').read_bytes()
  (folder / 'entries').write_bytes(entries[:-1])
  with pytest.raises(
    ValueError, match="whose 'entries' is not whole; accepted"
  ):
    load(task)


def test_an_index_may_lie_elsewhere_and_move_with_the_shards(tmp_path):
  write('webdataset', tmp_path / 'a')
  task = shard_files.task(
    'webdataset', tmp_path / 'a', index=str(tmp_path / 'i')
  )
  shard_files.index(task)
  digest = load(task).digest
  assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == [
    f'0000{n}.tar' for n in range(3)
  ]
  (tmp_path / 'a').rename(tmp_path / 'b')
  task = shard_files.task(
    'webdataset', tmp_path / 'b', index=str(tmp_path / 'i')
  )
  assert load(task).digest == digest


def test_a_bucket_is_indexed_and_read(bucket, storage_server, tmp_path):
  write('webdataset', tmp_path / 'a')
  storage_server.upload(tmp_path / 'a', bucket, 'a')
  for path in (f'gs://{bucket}/a', f'gs://{bucket}/a/{{00000..00002}}.tar'):
    task = shard_files.task('webdataset', path)
    assert shard_files.index(task).records == 10
    index = load(task)
    shard, inside = index.locate(9)
    record = index.files[shard].read(*index.span(shard, inside))
    assert tar.fields(record)['txt'] == b'picture 9'
  names = storage_server.names(bucket, 'a/imagen_jax')
  assert len(names) == 4, names
  storage_server.put(bucket, 'a/00000.tar', b'other')
  with pytest.raises(ValueError, match='before 1 of the shards changed'):
    load(task)


def test_other_buckets_go_by_the_same_layer(tmp_path):
  """fsspec's own memory stands for s3://, which takes another package."""
  write('webdataset', tmp_path)
  memory = fsspec.filesystem('memory')
  for path in tmp_path.glob('*.tar'):
    memory.pipe_file(f'/some/{path.name}', path.read_bytes())
  task = shard_files.task('webdataset', 'memory://some')
  assert shard_files.index(task).records == 10
  index = load(task)
  record = index.files[2].read(*index.span(2, 1))
  assert tar.fields(record)['txt'] == b'picture 9'
  memory.rm('/some', recursive=True)


def test_a_scheme_that_needs_a_package_is_refused(monkeypatch):
  def filesystem(scheme, **options):
    raise ImportError('Install s3fs to access S3')

  monkeypatch.setattr(fsspec, 'filesystem', filesystem)
  files._of_scheme.cache_clear()
  task = shard_files.task('webdataset', 's3://bucket/a')
  with pytest.raises(ValueError, match='cannot read: Install s3fs.*; accepted'):
    shard_files.index(task)


def test_a_scan_holds_a_part_of_a_shard(tmp_path, monkeypatch):
  """Whatever its size; and reads little of a local one."""
  path = tmp_path / 'x.tar'
  shard_files.write(
    'webdataset',
    path,
    [shard_files.record(n, jpg=bytes(2**20)) for n in range(4)],
  )
  read = []
  of_file = files.File.read

  def counted(self, start, stop):
    data = of_file(self, start, stop)
    read.append(len(data))
    return data

  monkeypatch.setattr(files.File, 'read', counted)
  assert tar.scan(files.stat(str(path), 'path')).records == 4
  assert max(read) <= files._LOCAL_CHUNK
  assert sum(read) < 2**20 < path.stat().st_size


@pytest.mark.parametrize(
  'text',
  [
    '[]',
    'null',
    '7',
    '\0\1',
    '[' * 100_000,
    '{"format": 1, "kind": "webdataset"}',
    '{"format": 1, "kind": "webdataset", "shards": 3}',
    '{"format": 1, "kind": "webdataset", "shards": [["a", 1]]}',
    '{"format": 1, "kind": "webdataset", "shards": [["a", 1, "b", -1, 0, ""]]}',
    '{"format": 1, "kind": "webdataset", "shards": [["a", 1, 2, 1, 0, ""]]}',
    '{"format": 1, "kind": "tfrecord", "shards": []}',
  ],
)
def test_a_table_of_rubbish_is_refused_in_one_line(tmp_path, text):
  task = shard_files.indexed('webdataset', tmp_path, [shard_files.record(0)])
  place = place_lib.of(task)
  (tmp_path / place.index / 'index.json').write_text(text)
  with pytest.raises(ValueError, match='no index of webdataset; acc') as error:
    index_lib.load(place, max_missing_share=0.0)
  assert '\n' not in str(error.value)
