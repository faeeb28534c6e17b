"""Damaged pairs and damaged shards, through every kind of source."""

import collections
import importlib.util
import pathlib
import resource
import time

import pytest
import shard_files

from imagen_jax import config as config_lib
from imagen_jax import storage
from imagen_jax.data import records as records_lib

KINDS = ('webdataset', 'tfrecord', 'arrayrecord', 'parquet', 'folder')

# Of a record, before it is said to hang; it takes milliseconds.
_PATIENCE = 20.0
_MEMORY = 2**31


def _load(name):
  path = pathlib.Path(__file__).parent / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


make_mutated = _load('make_mutated')


def outcomes(task):
  """How often each reason not to use a record comes; '' is of good ones."""
  dataset = records_lib.open_dataset(task, max_missing_share=1.0)
  records = records_lib.Records(task, dataset, 'train')
  found = collections.Counter()
  for index in range(len(records)):
    started = time.monotonic()
    try:
      record = records.read(index)
      assert record.picture.image.mode == 'RGB' and record.captions
      found[''] += 1
    except records_lib.BadRecordError as error:
      found[str(error)] += 1
    assert records.key(index)
    assert time.monotonic() - started < _PATIENCE, records.key(index)
  return found


def corpus(kind, count):
  """The pairs, as a kind of source can hold them."""
  for pair in make_mutated.corpus(count):
    caption = pair['txt']
    if kind == 'folder' and caption is not None:
      pair['txt'] = caption.decode(errors='surrogateescape')
    yield pair


def as_tfds(toy, folder, count):
  """The pairs as a TFDS dataset."""
  examples = [
    {
      'image': pair['jpg'],
      'captions': [] if pair['txt'] is None else [pair['txt']],
      'key': pair['key'],
    }
    for pair in corpus('tfds', count)
  ]
  path = toy.write(folder, {'train': examples})
  return config_lib.TaskConfig('some', path)


def check(kind, folder, count, toy):
  if kind == 'tfds':
    task = as_tfds(toy, folder, count)
  else:
    shard_files.write_many(kind, folder, corpus(kind, count), per_shard=500)
    task = shard_files.task(kind, folder)
    assert shard_files.index(task).damaged == []
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found = outcomes(task)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert (after - before) * 1024 < _MEMORY
  assert found.total() == count
  return found


@pytest.fixture(scope='module', autouse=True)
def no_patience():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(storage, 'WAITS', ())
    yield


pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:PIL')


@pytest.mark.parametrize('kind', (*KINDS, 'tfds'))
def test_some_damaged_pairs_go_through_every_source(toy, tmp_path, kind):
  found = check(kind, tmp_path / kind, 150, toy)
  assert found[''] > 15 and found['undecodable picture'] > 50


@pytest.mark.slow
def test_two_thousand_damaged_pairs_go_through_every_source(toy, tmp_path):
  """And every kind says the same of them; -s shows the docs' table."""
  kinds = (*KINDS, 'tfds')
  every = {kind: check(kind, tmp_path / kind, 2000, toy) for kind in kinds}
  first = every['webdataset']
  print('\n| |', ' | '.join(f'`{kind}`' for kind in kinds), '|')
  print('| --- |', ' | '.join(['---:'] * len(kinds)), '|')
  for reason, _ in first.most_common():
    counts = ' | '.join(f'{every[kind][reason]:,}' for kind in kinds)
    print(f'| {reason or "used"} | {counts} |')
  assert all(found == first for found in every.values()), every
  assert set(first) == {
    '',
    'undecodable picture',
    'picture too large',
    'empty caption',
    'caption too long',
    'caption is not UTF-8',
  }


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS[:-1])
def test_damaged_shards_are_read_as_far_as_they_go(tmp_path, kind):
  pairs = [shard_files.record(number) for number in range(6)]
  path = tmp_path / f'a.{shard_files.ENDINGS[kind]}'
  shard_files.write(kind, path, pairs)
  good = path.read_bytes()
  read = collections.Counter()
  for damaged in make_mutated.mutate(good, 400):
    path.write_bytes(damaged)
    task = shard_files.task(kind, tmp_path)
    try:
      shard_files.index(task)
    except ValueError as error:
      assert 'has no records in 1 shards' in str(error)
      read['refused'] += 1
      continue
    read.update(outcomes(task))
  print(f'\n{kind}:', dict(read.most_common()))
  assert read[''] > 400 and read['refused'] > 0
