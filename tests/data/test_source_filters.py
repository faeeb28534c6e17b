"""What of sound records is used: filters, and captions."""

import dataclasses

from batches import take
import pytest
import shard_files
from source_records import KINDS
from source_records import opened
from source_records import outcome
from source_records import some

from imagen_jax import config as config_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import tasks as tasks_lib


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


def test_downloads_that_failed_are_dropped_by_their_status(tmp_path):
  """As img2dataset leaves them in Parquet: rows without a picture."""
  failed = {'status': 'failed_to_download', 'jpg': None, 'txt': None}
  records = [
    shard_files.record(0, status='success'),
    shard_files.record(1, **failed),
  ]
  task = shard_files.indexed('parquet', tmp_path, records)
  assert outcome(opened(task), 1) == 'empty caption'
  status = config_lib.FilterConfig('status', accepted=('success',))
  found = opened(dataclasses.replace(task, filters=(status,)))
  assert outcome(found, 0) == '000000000'
  with pytest.raises(records_lib.DroppedRecordError, match='status is another'):
    found.read(1)


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
    take(toy.config(task), 1)
  assert 'some: width under 9: 4 of 4 (100.0%)' in str(error.value)


def test_captions_take_turns(toy, eleven):
  """In three epochs each of three captions comes once."""
  turns = toy.config(('a', eleven), batch_size=11, caption_choice='turns')
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
