"""Every kind of source: the same records, the same order, any step."""

import dataclasses
import io

from batches import take
import numpy as np
from PIL import Image
import pytest
import shard_files
from source_records import KINDS
from source_records import opened
from source_records import outcome
from source_records import some

from imagen_jax.data import loader as loader_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import tasks as tasks_lib


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
def test_a_number_may_be_the_key(tmp_path, kind):
  """As that of COCO's pictures is."""
  records = [shard_files.record(n, id=1000 + n) for n in range(2)]
  task = shard_files.indexed(kind, tmp_path, records, key='id')
  assert [opened(task).key(n) for n in range(2)] == ['1000', '1001']


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


def config(toy, *tasks, **options):
  return toy.config(*tasks, crop='random', **options)


@pytest.mark.parametrize('kind', KINDS)
def test_the_order_is_exact_whatever_the_source(toy, tmp_path, kind):
  """On any number of hosts, from any step, each record once an epoch."""
  task = shard_files.indexed(kind, tmp_path, some(24))
  whole = take(config(toy, task), 6)
  keys = [key for batch in whole for key in batch['key']]
  for epoch in (keys[:24], keys[24:]):
    assert sorted(epoch) == [f'{n:09d}' for n in range(24)]
  assert keys[:24] != keys[24:]
  (fifth,) = take(config(toy, task), 1, start_step=5)
  assert fifth['key'] == whole[5]['key']
  np.testing.assert_array_equal(fifth['image'], whole[5]['image'])
  halves = [
    take(config(toy, task), 1, rows=r, start_step=5)
    for r in (range(4), range(4, 8))
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
def test_a_key_that_comes_twice_is_two_records(toy, tmp_path, kind):
  """Neighbours in a shard; of a folder they are lines about one file."""
  records = [shard_files.record(n, key=k) for n, k in enumerate('aabc')]
  task = shard_files.indexed(kind, tmp_path, records)
  (batch,) = take(config(toy, task, batch_size=4), 1)
  assert sorted(batch['key']) == ['a', 'a', 'b', 'c']
  assert sorted(batch['caption']) == [f'picture {n}' for n in range(4)]


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
