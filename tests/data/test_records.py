import dataclasses
import threading

import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import pictures
from imagen_jax import storage
from imagen_jax.data import records as records_lib


def open_records(path, split='train', **options):
  task = config_lib.TaskConfig('toy', path)
  dataset = records_lib.open_dataset(task)
  return records_lib.Records(task, dataset, split, **options)


def test_records_are_read_by_number_across_files(toy, twenty):
  records = open_records(twenty)
  assert len(records) == 20
  for number in (19, 0, 7, 6):
    record = records.read(number)
    np.testing.assert_array_equal(record.picture.image, toy.picture(number))
    assert record.captions == (f'picture {number}',)
    assert record.key == records.key(number) == f'k{number}'


def test_a_part_of_a_split_can_be_read(twenty):
  records = open_records(twenty, 'train[50%:]')
  assert len(records) == 10
  assert records.read(0).key == 'k10'


def test_one_caption_and_no_key_will_do(toy, tmp_path):
  import tensorflow_datasets as tfds

  features = {
    'image': tfds.features.Image(shape=(None, None, 3)),
    'caption': tfds.features.Text(),
  }
  examples = [{'image': toy.encode(toy.picture(1)), 'caption': ' one '}]
  path = toy.write(tmp_path / 'one', {'train': examples}, features=features)
  record = open_records(path).read(0)
  assert record.captions == ('one',)
  assert record.key == '#0'


LONG = 'x' * (pictures.MAX_CAPTION + 1)


@pytest.mark.parametrize(
  ('captions', 'reason'),
  [
    ([], 'empty caption'),
    ([''], 'empty caption'),
    ([' \n\t'], 'empty caption'),
    ([LONG], 'caption too long'),
    ([b'\xff\xfe'], 'caption is not UTF-8'),
  ],
)
def test_a_record_without_a_usable_caption_is_bad(
  toy, tmp_path, captions, reason
):
  one = {**toy.example(0), 'captions': captions}
  records = open_records(toy.write(tmp_path / 'bad', {'train': [one]}))
  with pytest.raises(records_lib.BadRecordError, match=f'^{reason}$'):
    records.read(0)
  with pytest.raises(records_lib.BadRecordError, match=f'^{reason}$'):
    records.captions(0)


def test_unusable_captions_beside_a_usable_one_are_left_out(toy, tmp_path):
  captions = ['', b'\xff', LONG, ' café ', 'x' * pictures.MAX_CAPTION]
  one = toy.example(0, captions=captions)
  records = open_records(toy.write(tmp_path / 'some', {'train': [one]}))
  assert records.read(0).captions == ('café', 'x' * pictures.MAX_CAPTION)
  assert records.captions(0) == records.read(0).captions


@pytest.mark.parametrize(
  ('encoded', 'reason'),
  [
    (b'', 'undecodable picture'),
    (b'not a picture', 'undecodable picture'),
    ('truncated', 'undecodable picture'),
    ('flipped', 'undecodable picture'),
    ('huge', 'picture too large'),
  ],
)
def test_a_record_without_a_usable_picture_is_bad(
  toy, tmp_path, encoded, reason
):
  good = toy.encode(toy.picture(0))
  bmp = toy.encode(toy.picture(0), 'BMP')
  damaged = {
    'truncated': good[: len(good) // 2],
    'flipped': good[:60] + bytes([good[60] ^ 255]) + good[61:],
    # A header that claims 20,000 pixels on a side.
    'huge': bmp[:18] + (20_000).to_bytes(4, 'little') * 2 + bmp[26:],
  }
  one = {**toy.example(0), 'image': damaged.get(encoded, encoded)}
  path = toy.write(tmp_path / 'bad', {'train': [one]})
  records = open_records(path)
  with pytest.raises(records_lib.BadRecordError, match=f'^{reason}$'):
    records.read(0)
  assert records.key(0) == 'k0'
  assert records.captions(0) == ('picture 0',)


@pytest.mark.parametrize('height, width', [(7, 30), (30, 7), (1, 1)])
def test_a_small_picture_is_dropped_by_its_header(toy, tmp_path, height, width):
  one = toy.example(0, height, width)
  # That its pixels are damaged is not seen: they are not decoded.
  one['image'] = one['image'][:45]
  records = open_records(toy.write(tmp_path / 'small', {'train': [one]}))
  with pytest.raises(records_lib.BadRecordError, match='undecodable'):
    records.read(0)
  records = open_records(str(tmp_path / 'small'), min_size=8)
  words = '^shorter side under 8 pixels$'
  with pytest.raises(records_lib.DroppedRecordError, match=words):
    records.read(0)


def test_a_picture_that_is_just_large_enough_is_read(toy, tmp_path):
  path = toy.write(tmp_path / 'just', {'train': [toy.example(0, 8, 9)]})
  assert open_records(path, min_size=8).read(0).picture.image.size == (9, 8)


def test_a_damaged_file_is_a_bad_record(toy, tmp_path):
  path = toy.write(
    tmp_path / 'rot', {'train': [toy.example(n, 64, 64) for n in range(7)]}
  )
  (file,) = (tmp_path / 'rot').glob('*array_record*')
  content = bytearray(file.read_bytes())
  # Noise is stored as it is: the fourth picture's lies where it can be found.
  start = content.index(toy.example(3, 64, 64)['image'][500:520])
  content[start : start + 20] = bytes(20)
  file.write_bytes(content)
  records = open_records(path)
  with pytest.raises(records_lib.BadRecordError, match='unreadable record'):
    records.read(3)
  assert records.key(3) == '#3'
  assert [records.read(number).key for number in (2, 4)] == ['k2', 'k4']


class Source:
  """Records that storage gives after so many refusals."""

  def __init__(self, source, refusals):
    self._source, self.refusals = source, refusals

  def __getitem__(self, index):
    if self.refusals:
      self.refusals -= 1
      raise RuntimeError('Permanent error: no permission to read\nmore')
    return self._source[index]


def test_a_record_that_storage_refuses_is_not_bad(toy, tmp_path, monkeypatch):
  waited = []
  monkeypatch.setattr(records_lib.time, 'sleep', waited.append)
  path = toy.write(tmp_path / 'toy', {'train': [toy.example(0)]})
  records = open_records(path)
  table = records._table
  table.source = Source(table.source, refusals=3)
  assert records.read(0).key == 'k0'
  assert waited == list(storage.WAITS[:3])
  table.source.refusals = 10**9
  with pytest.raises(
    records_lib.UnreachableError,
    match=r"tasks\[toy\]: record 0 of 'train' cannot be read: Perm.* read$",
  ):
    records.read(0)
  assert sum(waited[3:]) >= 100


class FarSource:
  """Twenty records without end, given when `together` of them are asked for."""

  def __init__(self, source, together):
    self._source = source
    self._barrier = threading.Barrier(together)
    self._lock = threading.Lock()
    self.under_way = self.most = 0

  def __getitem__(self, index):
    with self._lock:
      self.under_way += 1
      self.most = max(self.most, self.under_way)
    try:
      self._barrier.wait(30)
    except threading.BrokenBarrierError:  # A RuntimeError: tried again else.
      raise AssertionError(f'{self.most} reads at once') from None
    with self._lock:
      self.under_way -= 1
    return self._source[index % 20]


@pytest.mark.parametrize(
  'scheme, together', [('gs://', 64), ('s3://', 64), ('memory://', 64), ('', 1)]
)
def test_captions_of_a_bucket_are_read_side_by_side(twenty, scheme, together):
  records = open_records(twenty)
  path = f'{scheme}{twenty}'
  records._task = dataclasses.replace(records._task, path=path)
  far = FarSource(records._table.source, together)
  records._table.source = far
  found = list(records.captions_of(range(3 * 64)))
  assert found == [(f'picture {n % 20}',) for n in range(3 * 64)]
  assert far.most == together


def test_a_record_without_captions_keeps_its_place(toy, tmp_path):
  examples = [toy.example(0), toy.example(1, captions=['']), toy.example(2)]
  records = open_records(toy.write(tmp_path / 'some', {'train': examples}))
  found = list(records.captions_of([2, 1, 0]))
  assert found == [('picture 2',), (), ('picture 0',)]


def test_a_missing_folder_is_refused():
  message = r"data.tasks\[toy\].path is '/not/here', which is no folder"
  with pytest.raises(ValueError, match=message):
    open_records('/not/here')
  with pytest.raises(ValueError, match="path is '', which is no folder"):
    open_records('')


def test_a_folder_of_something_else_is_refused(tmp_path):
  with pytest.raises(ValueError, match='which has no dataset_info.json'):
    open_records(str(tmp_path))


def test_another_file_format_is_refused(toy, tmp_path):
  path = toy.write(
    tmp_path / 'old', {'train': [toy.example(0)]}, form='tfrecord'
  )
  with pytest.raises(ValueError, match='in tfrecord form; accepted'):
    open_records(path)


def test_other_features_are_refused(toy, tmp_path):
  import tensorflow_datasets as tfds

  features = {'text': tfds.features.Text()}
  path = toy.write(
    tmp_path / 'text', {'train': [{'text': 'a'}]}, features=features
  )
  with pytest.raises(ValueError, match=r"the features \['text'\]; accepted"):
    open_records(path)


def test_an_unknown_split_is_refused_with_the_known_ones(twenty):
  message = r"is 'test'; accepted: one of \['heldout', 'train'\]"
  with pytest.raises(ValueError, match=message):
    open_records(twenty, 'test')


def test_an_empty_split_is_refused(twenty):
  message = r"has no examples in split 'train\[:0\]' of .*twenty"
  with pytest.raises(ValueError, match=message):
    open_records(twenty, 'train[:0]')
