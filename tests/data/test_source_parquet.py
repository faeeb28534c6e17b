"""Parquet: row groups, of which one row is wanted."""

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest
import shard_files
from source_records import opened
from source_records import outcome
from source_records import some

from imagen_jax.data import parquet_table
from imagen_jax.data import records as records_lib
from imagen_jax.shards import footers


def write_parquet(path, columns, **options):
  parquet.write_table(
    pyarrow.table(columns), path, store_schema=False, **options
  )
  task = shard_files.task('parquet', path.parent)
  shard_files.index(task)
  return task


def repeated(value, count):
  """A value that a file holds once, for many rows."""
  values = pyarrow.array([value])
  return pyarrow.DictionaryArray.from_arrays(np.zeros(count, np.int32), values)


def test_pictures_of_hugging_face_are_structs(tmp_path):
  rows = [
    {'image': {'bytes': shard_files.picture(n), 'path': 'x'}, 'text': f't{n}'}
    for n in range(5)
  ]
  parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'a.parquet')
  task = shard_files.task('parquet', tmp_path)
  shard_files.index(task)
  assert opened(task).read(4).captions == ('t4',)


def test_text_of_parquet_that_is_none_is_bad(tmp_path):
  """As another writer may leave it: Arrow does not look before it is read."""
  texts = pyarrow.array([b'good', b'\xff\xfe'], pyarrow.binary())
  columns = {
    'jpg': [shard_files.picture(n) for n in range(2)],
    'txt': texts.view(pyarrow.string()),
    'key': ['a', 'b'],
  }
  parquet.write_table(pyarrow.table(columns), tmp_path / 'a.parquet')
  task = shard_files.task('parquet', tmp_path)
  shard_files.index(task)
  records = opened(task)
  assert records.read(0).captions == ('good',)
  with pytest.raises(records_lib.BadRecordError, match='^unreadable row$'):
    records.read(1)
  assert records.key(1) == '#1'


def test_captions_of_parquet_are_read_without_pictures(tmp_path, monkeypatch):
  task = shard_files.indexed('parquet', tmp_path, some())
  records = opened(task)
  columns = []
  read = footers.parquet.ParquetFile.iter_batches

  def spy(self, *args, **options):
    columns.append(sorted(options['columns']))
    return read(self, *args, **options)

  monkeypatch.setattr(footers.parquet.ParquetFile, 'iter_batches', spy)
  assert [records.captions(n) for n in range(3)] == [
    (f'picture {n}',) for n in range(3)
  ]
  assert columns == [['key', 'txt']]  # A row group is read once.
  records.read(3)
  assert columns[1:] == [['jpg', 'key', 'txt']]


def test_damage_in_a_row_group_is_no_weather(tmp_path, monkeypatch):
  monkeypatch.setattr(records_lib.time, 'sleep', None)
  records = [
    shard_files.record(n, jpg=shard_files.picture(n, 64, 64)) for n in range(6)
  ]
  shard_files.write('parquet', tmp_path / 'a.parquet', records)
  data = bytearray((tmp_path / 'a.parquet').read_bytes())
  rng = np.random.default_rng(0)
  seen = set()
  for _ in range(40):
    broken = bytearray(data)
    place = rng.integers(4, 60)  # A page's header is there.
    broken[place : place + 40] = rng.bytes(40)
    (tmp_path / 'a.parquet').write_bytes(broken)
    task = shard_files.task('parquet', tmp_path)
    shard_files.index(task)
    seen.add(outcome(opened(task), 0))
    assert outcome(opened(task), 3) == '000000003'
  assert 'unreadable row group' in seen


def test_a_picture_of_many_rows_is_held_once(tmp_path, monkeypatch):
  """A row group that is small by its footer, and large once it is decoded."""
  monkeypatch.setattr(parquet_table, '_DECODED', 2**20)
  large = shard_files.picture(1, 300, 300)
  count = 300
  columns = {
    'key': [str(n) for n in range(count)],
    'jpg': repeated(large, count),
    'txt': [f'picture {n}' for n in range(count)],
  }
  task = write_parquet(tmp_path / 'a.parquet', columns)
  assert (tmp_path / 'a.parquet').stat().st_size < 2 * len(large)
  records = opened(task)
  used = pyarrow.total_allocated_bytes()
  for number in (250, 249, 251, 3, 299):
    assert records.read(number).key == str(number)
    assert pyarrow.total_allocated_bytes() - used < 6 * len(large)


def test_rows_of_a_large_group_are_decoded_once_in_order(tmp_path, monkeypatch):
  monkeypatch.setattr(parquet_table, '_DECODED', 2000)
  task = shard_files.indexed('parquet', tmp_path, some(60))
  opens = []
  open_parquet = footers.open_parquet
  monkeypatch.setattr(
    footers,
    'open_parquet',
    lambda *args, **options: (
      opens.append(args) or open_parquet(*args, **options)
    ),
  )
  monkeypatch.setattr(parquet_table, '_GROUPS', 2)
  records = opened(task)
  keys = [records.read(number).key for number in range(60)]
  assert keys == [f'{n:09d}' for n in range(60)]
  assert len(opens) == 30  # As many as there are row groups.
  backwards = [records.read(number).key for number in reversed(range(60))]
  assert backwards == keys[::-1]


def test_no_more_groups_are_remembered(tmp_path, monkeypatch):
  monkeypatch.setattr(parquet_table, '_GROUPS', 2)
  records = opened(shard_files.indexed('parquet', tmp_path, some(12)))
  for number in range(12):
    records.read(number)
  assert len(records._table._reader._groups) == 2


def test_a_list_that_says_one_caption_endlessly_is_bad(tmp_path):
  captions = pyarrow.ListArray.from_arrays(
    pyarrow.array([0, 2000, 4000, 4002], pyarrow.int32()),
    repeated('x' * 100_000, 4002),
  )
  columns = {
    'jpg': [shard_files.picture(n) for n in range(3)],
    'captions': captions,
  }
  records = opened(write_parquet(tmp_path / 'a.parquet', columns))
  before = pyarrow.total_allocated_bytes()
  assert outcome(records, 0) == 'row too large'
  assert outcome(records, 2) == 'caption too long'
  assert pyarrow.total_allocated_bytes() - before < 10_000_000


@pytest.mark.parametrize('encoding', ['PLAIN', 'DELTA_LENGTH_BYTE_ARRAY'])
def test_lists_are_read_in_every_encoding(tmp_path, encoding):
  columns = {
    'jpg': [shard_files.picture(n) for n in range(3)],
    'captions': [['a', 'b'], ['c'], []],
  }
  encodings = {'captions.list.element': encoding, 'jpg': 'PLAIN'}
  task = write_parquet(
    tmp_path / 'a.parquet',
    columns,
    use_dictionary=False,
    column_encoding=encodings,
  )
  records = opened(task)
  assert [records.read(n).captions for n in (0, 1)] == [('a', 'b'), ('c',)]
  assert outcome(records, 2) == 'empty caption'


def test_a_row_group_that_is_too_large_is_told(tmp_path, monkeypatch):
  monkeypatch.setattr(footers, 'MAX_GROUP', 100)
  with pytest.raises(ValueError, match='a row group has .* bytes, over 100'):
    shard_files.indexed('parquet', tmp_path, some())
