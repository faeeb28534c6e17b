"""Every kind of source: the same records, the same order, any step."""

import contextlib
import dataclasses
import io
import json
import os
import socket
import threading

from array_record.python import array_record_module
import fsspec
import numpy as np
from PIL import Image
import pyarrow
from pyarrow import parquet
import pytest
import shard_files

from imagen_jax import config as config_lib
from imagen_jax import storage
from imagen_jax.data import array_records
from imagen_jax.data import folder_table
from imagen_jax.data import loader as loader_lib
from imagen_jax.data import parquet_table
from imagen_jax.data import records as records_lib
from imagen_jax.data import tasks as tasks_lib
from imagen_jax.shards import files
from imagen_jax.shards import footers
from imagen_jax.shards import lines

KINDS = ('webdataset', 'tfrecord', 'arrayrecord', 'parquet', 'folder')


def some(count=10, **changes):
  return [shard_files.record(number, **changes) for number in range(count)]


def opened(task, split='train', share=0.0, **options):
  dataset = records_lib.open_dataset(task, max_missing_share=share)
  return records_lib.Records(task, dataset, split, **options)


def outcome(records, index):
  """The key of a record, or why it is not used."""
  try:
    return records.read(index).key
  except (records_lib.BadRecordError, records_lib.DroppedRecordError) as error:
    return str(error)


@pytest.mark.parametrize('kind', KINDS)
def test_records_are_read_by_number(tmp_path, kind):
  task = shard_files.indexed(kind, tmp_path, some())
  records = opened(task)
  assert len(records) == 10
  for number in (9, 0, 5, 4, 3):
    record = records.read(number)
    image = Image.open(io.BytesIO(shard_files.picture(number)))
    np.testing.assert_array_equal(record.picture.image, np.asarray(image))
    assert record.captions == records.captions(number)
    assert record.captions == (f'picture {number}',)
    assert record.key == records.key(number) == f'{number:09d}'


@pytest.mark.parametrize('kind', KINDS)
def test_the_last_records_are_held_out(tmp_path, kind):
  task = shard_files.indexed(kind, tmp_path, some(), heldout=3)
  assert records_lib.open_dataset(task).splits == {'train': 7, 'heldout': 3}
  heldout = opened(task, 'heldout')
  assert [heldout.read(n).key for n in range(3)] == [
    f'{number:09d}' for number in (7, 8, 9)
  ]
  assert opened(task).read(6).key == '000000006'
  with pytest.raises(
    ValueError, match=r"'test'; accepted: one of \['heldout', "
  ):
    opened(task, 'test')
  none = dataclasses.replace(task, heldout=0)
  with pytest.raises(
    ValueError, match=r"'heldout'; accepted: one of \['train'"
  ):
    opened(none, 'heldout')
  every = dataclasses.replace(task, heldout=10)
  with pytest.raises(ValueError, match='heldout is 10 of 10 records; accepted'):
    opened(every)


@pytest.mark.parametrize('kind', KINDS)
def test_fields_go_by_name(tmp_path, kind):
  records = some(3, alt='other', other=shard_files.picture(7), id='me')
  if kind == 'webdataset':
    records = some(3, alt='other', id='me')
  if kind == 'folder':
    (tmp_path / 'seven.png').write_bytes(shard_files.picture(7))
    records = some(3, alt='other', other='seven.png', id='me')
  fields = {} if kind == 'webdataset' else {'image': 'other'}
  task = shard_files.indexed(
    kind, tmp_path, records, captions='alt', key='id', **fields
  )
  record = opened(task).read(0)
  assert (record.captions, record.key) == (('other',), 'me')
  if fields:
    image = Image.open(io.BytesIO(shard_files.picture(7)))
    np.testing.assert_array_equal(record.picture.image, np.asarray(image))


@pytest.mark.parametrize('kind', KINDS)
def test_what_a_record_lacks_makes_it_bad(tmp_path, kind):
  records = some(4)
  records[0]['txt'] = ''
  records[1]['jpg'] = b'no picture'
  records[2]['txt'] = None
  if kind == 'webdataset':  # A file of other bytes than UTF-8.
    records[2]['txt'] = b'\xff'
  task = shard_files.indexed(kind, tmp_path, records)
  assert [outcome(opened(task), n) for n in range(4)] == [
    'empty caption',
    'undecodable picture',
    'caption is not UTF-8' if kind == 'webdataset' else 'empty caption',
    '000000003',
  ]


def test_a_csv_will_do(tmp_path):
  shard_files.write_folder(tmp_path, some(5), 'csv')
  task = shard_files.task('folder', tmp_path, captions='txt')
  shard_files.index(task)
  assert [outcome(opened(task), n) for n in (0, 4)] == [
    '000000000',
    '000000004',
  ]
  named = shard_files.task('folder', tmp_path / 'captions.csv')
  shard_files.index(named)
  assert opened(named).read(3).captions == ('picture 3',)


def test_several_captions_are_lists(tmp_path):
  captions = ['one', ' two ', '', 3]
  (tmp_path / 'a.png').write_bytes(shard_files.picture(0))
  row = json.dumps({'file': 'a.png', 'captions': captions})
  (tmp_path / 'captions.jsonl').write_text(row)
  task = shard_files.task('folder', tmp_path)
  shard_files.index(task)
  assert opened(task).read(0).captions == ('one', 'two')


def test_a_file_is_looked_for_in_its_folder_alone(tmp_path):
  folder = tmp_path / 'a'
  folder.mkdir()
  (tmp_path / 'secret.png').write_bytes(shard_files.picture(0))
  (folder / 'good.png').write_bytes(shard_files.picture(0))
  (folder / 'link.png').symlink_to(tmp_path / 'secret.png')
  (folder / 'inside.png').symlink_to(folder / 'good.png')
  (folder / 'circle.png').symlink_to(folder / 'circle.png')
  os.mkfifo(folder / 'pipe.png')
  files = {
    'good.png': 'good.png',
    './good.png': './good.png',
    'inside.png': 'inside.png',
    'link.png': 'file outside the folder',
    '../secret.png': 'file outside the folder',
    str(tmp_path / 'secret.png'): 'file outside the folder',
    'a\0b': 'file outside the folder',
    '.': 'file outside the folder',
    'absent.png': 'missing file',
    'pipe.png': 'missing file',
    'good.png/x': 'missing file',
    'circle.png': 'missing file',
    '\ud800.png': 'missing file',
    f'{"a" * 300}.png': 'missing file',
    'a/' * 3000: 'missing file',
    '': 'row without a file',
    3: 'row without a file',
  }
  rows = [json.dumps({'file': f, 'caption': 'c'}) + '\n' for f in files]
  (folder / 'captions.jsonl').write_text(''.join(rows))
  task = shard_files.task('folder', folder)
  shard_files.index(task)
  records = opened(task)
  found = [outcome(records, number) for number in range(len(files))]
  assert found == list(files.values())


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


def test_few_shards_are_open_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(array_records, 'OPEN', 2)
  task = shard_files.indexed('arrayrecord', tmp_path, some(20))
  records = opened(task)

  def shards():
    names = [f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')]
    found = [os.readlink(n) for n in names if os.path.exists(n)]
    return {path for path in found if path.startswith(str(tmp_path))}

  first = [records.read(n).key for n in range(len(records))]
  assert len(shards()) <= 2
  assert [records.read(n).key for n in range(len(records))] == first


def test_keys_are_lines_of_some_length(tmp_path):
  rows = [{'file': 'a.png', 'caption': 'c', 'key': 'x\ny' + 'z' * 10**5}]
  (tmp_path / 'a.png').write_bytes(shard_files.picture(0))
  (tmp_path / 'captions.jsonl').write_text(json.dumps(rows[0]) + '\n')
  task = shard_files.task('folder', tmp_path)
  shard_files.index(task)
  assert opened(task).key(0) == 'x?y' + 'z' * 197


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


def config(toy, *tasks, **options):
  return toy.config(*tasks, crop='random', **options)


def take(config, count, rows=range(8), start=0):
  with loader_lib.training_batches(
    config, rows=rows, store=None, start_step=start
  ) as batches:
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize('kind', KINDS)
def test_the_order_is_exact_whatever_the_source(toy, tmp_path, kind):
  """On any number of hosts, from any step, each record once an epoch."""
  task = shard_files.indexed(kind, tmp_path, some(24))
  whole = take(config(toy, task), 6)
  keys = [key for batch in whole for key in batch['key']]
  for epoch in (keys[:24], keys[24:]):
    assert sorted(epoch) == [f'{n:09d}' for n in range(24)]
  assert keys[:24] != keys[24:]
  (fifth,) = take(config(toy, task), 1, start=5)
  assert fifth['key'] == whole[5]['key']
  np.testing.assert_array_equal(fifth['image'], whole[5]['image'])
  halves = [
    take(config(toy, task), 1, rows=r, start=5) for r in (range(4), range(4, 8))
  ]
  assert [k for (half,) in halves for k in half['key']] == whole[5]['key']


def test_all_kinds_give_the_same_batches(toy, tmp_path):
  """The order is that of the numbers, and no kind has one of its own."""
  found = {}
  for kind in KINDS:
    task = shard_files.indexed(kind, tmp_path / kind, some(12))
    found[kind] = take(config(toy, task), 3)
  for batches in found.values():
    for batch, other in zip(batches, found['webdataset']):
      assert batch['key'] == other['key']
      assert batch['caption'] == other['caption']
      np.testing.assert_array_equal(batch['image'], other['image'])


def test_kinds_mix(toy, twenty, tmp_path):
  tasks = [
    dataclasses.replace(
      shard_files.indexed(kind, tmp_path / kind, some(6), heldout=1), name=kind
    )
    for kind in KINDS
  ]
  mixed = config(toy, ('tfds', twenty), *tasks)
  assert tasks_lib.num_examples(mixed)['parquet'] == {'train': 5, 'heldout': 1}
  keys = [key for batch in take(mixed, 4) for key in batch['key']]
  assert any(key[0] == 'k' for key in keys)
  assert len(tasks_lib.captions(mixed)) >= 2
  with loader_lib.eval_batches(mixed, rows=range(8), store=None) as batches:
    assert len(next(batches)['key']) == 8


def test_a_dataset_smaller_than_a_batch_comes_round(toy, tmp_path):
  task = shard_files.indexed('webdataset', tmp_path, some(3))
  (batch,) = take(config(toy, task), 1)
  keys = batch['key']
  assert sorted(keys[:3]) == sorted(keys[3:6]) == [f'{n:09d}' for n in range(3)]


@pytest.mark.parametrize('kind', KINDS)
def test_other_contents_have_another_fingerprint(tmp_path, kind):
  prints = [
    opened(shard_files.indexed(kind, tmp_path / name, some(9, **changes)))
    for name, changes in [('a', {}), ('b', {}), ('c', {'txt': 'picture'})]
  ]
  prints = [records.fingerprint for records in prints]
  assert prints[0] == prints[1] != prints[2]


def test_other_pictures_of_a_folder_have_another_fingerprint(tmp_path):
  """Though its captions file, and the files' sizes, are the same."""
  task = shard_files.indexed('folder', tmp_path, some(9))
  before = opened(task).fingerprint
  path = tmp_path / 'pictures' / f'{0:09d}.png'
  good = path.read_bytes()
  path.write_bytes(shard_files.picture(100)[: len(good)].ljust(len(good)))
  other = opened(task).fingerprint
  path.unlink()
  assert len({before, other, opened(task).fingerprint}) == 3
  path.write_bytes(good)  # At another time.
  assert opened(task).fingerprint == before


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


def test_a_record_that_is_too_large_is_not_read(tmp_path, monkeypatch):
  task = shard_files.indexed('webdataset', tmp_path, some())
  monkeypatch.setattr(records_lib.shard_table, '_MAX_RECORD', 1000)
  assert outcome(opened(task), 0) == 'record too large'


def test_a_json_of_a_record_is_bounded(tmp_path, monkeypatch):
  records = [shard_files.record(0), shard_files.record(1, more='x' * 300)]
  task = shard_files.indexed('webdataset', tmp_path, records)
  monkeypatch.setattr(records_lib.shard_table, '_MAX_JSON', 300)
  assert outcome(opened(task), 0) == '000000000'
  assert outcome(opened(task), 1) == 'JSON too large'


def test_rows_and_files_of_a_folder_are_bounded(tmp_path, monkeypatch):
  records = [shard_files.record(0), shard_files.record(1, more='x' * 300)]
  records.append(shard_files.record(2, jpg=shard_files.picture(2, 30, 30)))
  task = shard_files.indexed('folder', tmp_path, records)
  monkeypatch.setattr(lines, 'MAX_ROW', 300)
  monkeypatch.setattr(folder_table, '_MAX_FILE', 2000)
  found = [outcome(opened(task), number) for number in range(3)]
  assert found == ['000000000', 'row too large', 'file too large']


def test_a_csv_row_of_broken_quotes_is_bad(tmp_path):
  (tmp_path / 'a.png').write_bytes(shard_files.picture(0))
  rows = b'file,caption\na.png,one\na.png,"tw"o\na.png,\xff\na.png,four\n'
  (tmp_path / 'captions.csv').write_bytes(rows)
  task = shard_files.task('folder', tmp_path)
  shard_files.index(task)
  found = [outcome(opened(task), number) for number in range(4)]
  assert found == ['a.png', 'bad CSV row', 'bad CSV row', 'a.png']


def test_an_arrayrecord_that_replaces_another_is_not_read(tmp_path):
  task = shard_files.indexed('arrayrecord', tmp_path, some())
  records = opened(task)
  assert records.read(0).key == '000000000'  # It is open.
  shard_files.write(
    'arrayrecord', tmp_path / '00000.array_record', some(14)[10:]
  )
  found = [outcome(records, number) for number in (0, 3, 4)]
  assert found == ['shard has changed'] * 2 + ['000000004']


@pytest.mark.parametrize('group', [1, 2])
def test_an_arrayrecord_is_not_unpacked_beyond_a_size(
  tmp_path, group, monkeypatch
):
  """The size of a group, where records lie in groups."""
  sizes = [100, 100, 3000, 100, 100]
  path = tmp_path / 'a.array_record'
  writer = array_record_module.ArrayRecordWriter(
    str(path), f'group_size:{group}'
  )
  for size in sizes:
    writer.write(bytes(size))
  writer.close()
  task = shard_files.task('arrayrecord', tmp_path)
  shard_files.index(task)
  monkeypatch.setattr(array_records, 'MAX_RECORD', 2000)
  found = [outcome(opened(task), number) for number in range(5)]
  large = {1: [2], 2: [2, 3]}[group]
  assert [n for n in range(5) if found[n] == 'record too large'] == large


def tfds(toy, tmp_path):
  path = toy.write(
    tmp_path / 'toy', {'train': [toy.example(n, 99, 99) for n in range(7)]}
  )
  (shard,) = (tmp_path / 'toy').glob('*array_record*')
  return opened(config_lib.TaskConfig('some', path)), shard


@pytest.mark.parametrize('is_open', [False, True])
def test_a_shard_of_tfds_that_goes_bad_is_bad_records(
  toy, tmp_path, is_open, monkeypatch
):
  monkeypatch.setattr(records_lib.time, 'sleep', None)  # It is no weather.
  records, shard = tfds(toy, tmp_path)
  if is_open:
    assert outcome(records, 0) == 'k0'
  good = shard.read_bytes()
  changed = 'shard has changed' if is_open else 'unreadable record'
  shard.write_bytes(b'rubbish' * 20_000)
  assert outcome(records, 1) == changed
  shard.write_bytes(good[: len(good) // 2])
  assert outcome(records, 1) == changed
  shard.unlink()
  assert outcome(records, 1) == 'shard is gone'


def test_a_shard_of_tfds_with_fewer_records_is_cut(toy, tmp_path):
  records, shard = tfds(toy, tmp_path)
  shard_files.write('arrayrecord', shard, some(3))
  assert [outcome(records, n) for n in (0, 6)] == ['shard is cut'] * 2


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


def test_features_of_tfds_go_by_name(toy, tmp_path):
  """As those of coco_captions: captions within a sequence."""
  import tensorflow_datasets as tfds

  features = {
    'image': tfds.features.Image(shape=(None, None, 3)),
    'image/filename': tfds.features.Text(),
    'captions': tfds.features.Sequence(
      {'id': np.int64, 'text': tfds.features.Text()}
    ),
  }
  example = {
    'image': shard_files.picture(1),
    'image/filename': 'one.png',
    'captions': [{'id': n, 'text': f'caption {n}'} for n in range(5)],
  }
  path = toy.write(tmp_path / 'coco', {'train': [example]}, features=features)
  task = config_lib.TaskConfig(
    'some', path, captions='captions/text', key='image/filename'
  )
  record = opened(task).read(0)
  assert record.captions == tuple(f'caption {n}' for n in range(5))
  assert record.key == 'one.png'
  with pytest.raises(ValueError, match=r'captions/text.*accepted: .*or others'):
    opened(dataclasses.replace(task, captions=''))


def test_tfrecords_of_tfds_are_read_as_such(toy, tmp_path):
  examples = [toy.example(number) for number in range(9)]
  path = toy.write(tmp_path / 'old', {'train': examples}, form='tfrecord')
  task = config_lib.TaskConfig(
    'some', f'{path}/*-train.tfrecord*', kind='tfrecord'
  )
  shard_files.index(task)
  assert [opened(task).read(n).key for n in (0, 8)] == ['k0', 'k8']


def test_a_csv_without_names_is_refused(tmp_path):
  (tmp_path / 'captions.csv').write_bytes(b'\xff\xfe\nx,y\n')
  task = shard_files.task('folder', tmp_path)
  shard_files.index(task)
  with pytest.raises(ValueError, match='has no names of columns: .*; accepted'):
    opened(task)


@pytest.mark.parametrize('kind', KINDS)
def test_metadata_and_captions_are_filtered(tmp_path, kind):
  records = some(6)
  records[3]['txt'] = 'a caption that is longer than that'
  records[5]['jpg'] = shard_files.picture(5, 8, 17)
  filters = (
    config_lib.FilterConfig('similarity', least=0.01, most=0.05),
    config_lib.FilterConfig('NSFW', accepted=('UNLIKELY', 'UNSURE')),
  )
  task = shard_files.indexed(
    kind, tmp_path, records, filters=filters, max_caption=20, max_aspect=2.0
  )
  found = opened(task)
  assert [outcome(found, number) for number in range(6)] == [
    'similarity under 0.01',
    '000000001',
    'NSFW is another',
    'no caption of 1 to 20 characters',
    'NSFW is another',
    'longer side over 2 times the shorter',
  ]
  captions = tasks_lib.Captions(found)
  assert list(captions.read(range(6))) == ['picture 1', 'picture 5']


def test_small_pictures_are_dropped_by_task(tmp_path):
  task = shard_files.indexed('webdataset', tmp_path, some(2), min_side=9)
  assert outcome(opened(task), 0) == 'shorter side under 9 pixels'
  assert outcome(opened(task, min_size=30), 0) == 'shorter side under 30 pixels'


def test_captions_are_cleaned_before_they_are_encoded_or_shown(tmp_path):
  records = some(2)
  records[0]['txt'] = '<b>One</b> &amp; two | www.shop.com'
  records[1]['txt'] = 'www.shop.com'
  task = shard_files.indexed(
    'webdataset', tmp_path, records, clean_captions=True
  )
  found = opened(task)
  assert found.captions(0) == found.read(0).captions == ('One & two',)
  assert outcome(found, 1) == 'empty caption'


def test_nothing_left_by_the_filters_stops_a_run(toy, tmp_path):
  filters = (config_lib.FilterConfig('width', least=9),)
  task = shard_files.indexed('parquet', tmp_path, some(4), filters=filters)
  words = "task 'some': none of 4 records of 'train' can be used; accepted"
  with pytest.raises(ValueError, match=words) as error:
    take(config(toy, task), 1)
  assert 'some: width under 9: 4 of 4 (100.0%)' in str(error.value)


def test_captions_take_turns(toy, eleven):
  """In three epochs each of three captions comes once."""
  turns = config(toy, ('a', eleven), batch_size=11, caption_choice='turns')
  batches = take(turns, 6, rows=range(11))
  for three in (batches[:3], batches[3:]):
    found = {c for batch in three for c in batch['caption']}
    assert len(found) == 33
  # Not all records begin with the same one.
  assert len({caption[-1] for caption in batches[0]['caption']}) > 1


def test_other_captions_of_the_same_files_have_another_fingerprint(tmp_path):
  """Though the few that are looked at be the same."""
  task = shard_files.indexed('webdataset', tmp_path, some(3))
  changes = [
    {},
    {'clean_captions': True},
    {'max_caption': 100},
    {'filters': (config_lib.FilterConfig('width', most=8),)},
  ]
  found = [
    tasks_lib.Captions(opened(dataclasses.replace(task, **change)))
    for change in changes
  ]
  assert len({captions.fingerprint for captions in found}) == 4
  texts = [list(captions.read(range(3))) for captions in found]
  assert texts == [[f'picture {n}' for n in range(3)]] * 4
