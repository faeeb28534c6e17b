"""Examples: in ArrayRecord, TFRecord and tar shards, and those of TFDS."""

import dataclasses
import io
import os
import tarfile

from array_record.python import array_record_module
import numpy as np
import pytest
import shard_files
from source_records import opened
from source_records import outcome
from source_records import some

from imagen_jax import config as config_lib
from imagen_jax.data import array_records
from imagen_jax.data import records as records_lib


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


def test_features_of_tfds_within_others_go_by_their_path(toy, tmp_path):
  import tensorflow_datasets as tfds

  features = {
    'image': tfds.features.Image(shape=(None, None, 3)),
    'said': {'by': {'people': tfds.features.Text()}},
  }
  example = {
    'image': shard_files.picture(1),
    'said': {'by': {'people': 'a house'}},
  }
  path = toy.write(tmp_path / 'deep', {'train': [example]}, features=features)
  task = config_lib.TaskConfig('some', path, captions='said/by/people')
  assert opened(task).read(0).captions == ('a house',)


def test_tfrecords_of_tfds_are_read_as_such(toy, tmp_path):
  examples = [toy.example(number) for number in range(9)]
  path = toy.write(tmp_path / 'old', {'train': examples}, form='tfrecord')
  task = config_lib.TaskConfig(
    'some', f'{path}/*-train.tfrecord*', kind='tfrecord'
  )
  shard_files.index(task)
  assert [opened(task).read(n).key for n in (0, 8)] == ['k0', 'k8']


def test_a_record_that_is_too_large_is_not_read(tmp_path, monkeypatch):
  task = shard_files.indexed('webdataset', tmp_path, some())
  monkeypatch.setattr(records_lib.shard_table, '_MAX_RECORD', 1000)
  assert outcome(opened(task), 0) == 'record too large'


def test_a_record_within_which_a_shard_ends_is_cut(tmp_path):
  """Whatever of it is there: behind its last member a tar is filled up."""
  shard_files.write_many('webdataset', tmp_path, some(2))
  (path,) = tmp_path.iterdir()
  path.write_bytes(path.read_bytes().rstrip(b'\0'))
  task = shard_files.task('webdataset', tmp_path)
  assert 'it is cut' in shard_files.index(task).damaged[0]
  found = [outcome(opened(task), number) for number in range(2)]
  assert found == ['000000000', 'shard is cut']


def test_a_json_of_a_record_is_bounded(tmp_path, monkeypatch):
  records = [shard_files.record(0), shard_files.record(1, more='x' * 300)]
  task = shard_files.indexed('webdataset', tmp_path, records)
  monkeypatch.setattr(records_lib.shard_table, '_MAX_JSON', 300)
  assert outcome(opened(task), 0) == '000000000'
  assert outcome(opened(task), 1) == 'JSON too large'


@pytest.mark.parametrize(
  'rubbish',
  [
    b'[' * 100_000,
    b'{"similarity": ' * 10_000,
    b'{"similarity": ' + b'9' * 10_000 + b'}',
    b'{"similarity": 0.5',
    b'{"similarity": "\xff"}',
    b'[{"similarity": 0.5}]',
    b'null',
    b'',
  ],
  ids=lambda data: repr(data[:20]),
)
def test_a_json_of_rubbish_tells_nothing_of_its_record(tmp_path, rubbish):
  with tarfile.open(tmp_path / '00000.tar', 'w') as shard:
    for number in range(2):
      members = {'png': shard_files.picture(number), 'txt': b'a caption'}
      members['json'] = b'{"similarity": 0.5}' if number else rubbish
      for ending, data in members.items():
        member = tarfile.TarInfo(f'{number}.{ending}')
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))
  task = shard_files.task('webdataset', tmp_path)
  shard_files.index(task)
  assert [outcome(opened(task), number) for number in (0, 1)] == ['0', '1']
  similar = config_lib.FilterConfig('similarity', least=0.1)
  records = opened(dataclasses.replace(task, filters=(similar,)))
  assert [outcome(records, number) for number in (0, 1)] == [
    'no similarity',
    '1',
  ]
