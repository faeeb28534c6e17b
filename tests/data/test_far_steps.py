"""Steps far from the first: what is read for them, of a set of millions."""

import itertools

import numpy as np
import pytest

from imagen_jax.data import loader as loader_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import table as table_lib
from imagen_jax.shards import index as index_lib

RECORDS = 2_000_003
FAR = 1_000_000
PREFETCH = 2


class Millions(table_lib.Table):
  """Rows that say their number, all with one picture."""

  def __init__(self, picture, reads):
    super().__init__(table_lib.Names(('image',), ('txt',), ('key',)), '', b'')
    self._picture, self._reads = picture, reads

  def __len__(self):
    return RECORDS

  def raw(self, index):
    return str(index).encode()

  def row(self, index, wanted):
    self._reads.append(index)
    assert len(self._reads) < 10_000, 'a replay'  # Which would not end.
    return {'image': self._picture, 'txt': str(index), 'key': str(index)}


@pytest.fixture
def far(toy, monkeypatch, tmp_path):
  """Config of two tasks of millions, and the list of what is read."""
  reads = []

  class Dataset:
    splits = {'train': RECORDS}

    def table(self, split):
      return Millions(toy.encode(toy.picture(0)), reads)

  monkeypatch.setattr(records_lib, 'open_dataset', lambda *_, **__: Dataset())
  # Seqio keeps tasks by what is in a config: other paths are other tasks.
  tasks = (('a', str(tmp_path / 'a')), ('b', str(tmp_path / 'b'), 3.0))
  return toy.config(*tasks, prefetch=PREFETCH), reads


def first_batch(config, reads, step):
  """The first batch of a step, and how many records were read for it."""
  with loader_lib.training_batches(
    config, rows=range(8), store=None, start_step=step
  ) as batches:
    reads.clear()  # What a task is tried with before a run starts.
    return next(batches), len(reads)


def test_a_far_step_is_reached_without_replay(far):
  config, reads = far
  near, few = first_batch(config, reads, 0)
  batch, many = first_batch(config, reads, FAR)
  np.testing.assert_array_equal(batch['slot'], FAR * 8 + np.arange(8))
  assert batch['key'] != near['key'] and len(set(batch['key'])) == 8
  # Those of a few batches that are prepared ahead, as at the first step.
  ahead = 16 * (PREFETCH + 8)
  assert few <= ahead and many <= ahead


def test_a_far_step_is_the_one_that_those_before_it_lead_to(far):
  config, reads = far
  with loader_lib.training_batches(
    config, rows=range(8), store=None, start_step=FAR - 2
  ) as batches:
    *_, third = itertools.islice(batches, 3)
  batch, _ = first_batch(config, reads, FAR)
  assert batch['key'] == third['key']
  assert batch['slot'].tolist() == third['slot'].tolist()


@pytest.mark.parametrize('kind', ['webdataset', 'tfrecord'])
def test_a_record_of_millions_is_found_by_one_look(kind):
  """In an index that is mapped, of which nothing else is touched."""

  class Entries:
    """Two entries of a view of a view are read, and no more."""

    def __init__(self, values):
      self.values = values

    def __getitem__(self, part):
      return Entries(self.values[part])

    def tolist(self):
      assert len(self.values) == 2
      return self.values.tolist()

  per_shard, shards = 1000, RECORDS // 1000
  starts = np.arange(shards * (per_shard + 1), dtype='<u4')
  rows = [
    index_lib.Shard(f'{n}', 2**20, 't', per_shard, per_shard + 1)
    for n in range(shards)
  ]
  index = index_lib.Index(kind, rows, '/root', Entries(starts))
  unit = index_lib.UNITS.get(kind, 1)
  for record in (0, 999, 1000, FAR, len(index) - 1):
    shard, number = index.locate(record)
    assert (shard, number) == divmod(record, per_shard)
    first = shard * (per_shard + 1) + number
    assert index.span(shard, number) == (first * unit, (first + 1) * unit)
