"""Which records go to which shard."""

import itertools

import pytest

from imagen_jax import config
from imagen_jax.prepare import options
from imagen_jax.prepare import parts as parts_lib
from imagen_jax.prepare import plan


def part(number, size, name='a', split='train'):
  task = config.TaskConfig(name, 'x')
  return parts_lib.Part(number, task, split, 1, 0.0, size)


def summary(parts, left):
  """A summary in which left[part][range] records are left of each range."""
  return {
    str(each.number): {
      'bytes': 100 * sum(counts),
      'ranges': [[n * each.step, c, 100 * c] for n, c in enumerate(counts)],
    }
    for each, counts in zip(parts, left)
  }


@pytest.mark.parametrize('number', [1, 2, 3, 7, 20])
def test_shards_are_equal_runs_of_all_that_is_left_in_order(number):
  parts = [part(0, 300), part(1, 64, split='heldout')]
  left = [[7, 0, 5, 64, 3], [11]]
  wanted = options.Options((64,), num_shards=number)
  shards = plan.shards(parts, summary(parts, left), wanted)
  assert [shard.number for shard in shards] == list(range(number))
  sizes = [sum(r.stop - r.first for r in shard.runs) for shard in shards]
  assert sum(sizes) == 90 and max(sizes) - min(sizes) <= 1
  got = [
    (run.name, record)
    for run in itertools.chain.from_iterable(shard.runs for shard in shards)
    for record in range(run.first, run.stop)
  ]
  names = [f'000-{start:012d}' for start in range(0, 300, 64)]
  counts = zip([*names, '001-000000000000'], [*left[0], *left[1]])
  assert got == [(name, n) for name, count in counts for n in range(count)]


def test_shards_have_about_the_size_that_is_asked_for():
  parts = [part(0, 4096)]
  told = {'0': {'bytes': 10 * 2**20, 'ranges': [[0, 4096, 10 * 2**20]]}}
  for mib, number in ((1, 10), (3, 3), (100, 1)):
    shards = plan.shards(parts, told, options.Options((64,), shard_mib=mib))
    assert len(shards) == number
    assert shards[-1].name == f'a-{number - 1:05d}-of-{number:05d}.array_record'


def test_each_task_has_shards_of_its_own():
  parts = [part(0, 64), part(1, 64, 'b')]
  wanted = options.Options((64,), num_shards=2)
  shards = plan.shards(parts, summary(parts, [[4], [5]]), wanted)
  assert [(s.task, s.number) for s in shards] == [
    ('a', 0),
    ('a', 1),
    ('b', 0),
    ('b', 1),
  ]


@pytest.mark.parametrize(
  'left, words',
  [
    (
      [[0]],
      r'data.tasks\[a\] has no record left of 64; accepted: one at least',
    ),
    ([[2]], '--num-shards is 3, but 2 records are left of'),
  ],
)
def test_too_little_is_refused(left, words):
  parts = [part(0, 64)]
  wanted = options.Options((64,), num_shards=3)
  with pytest.raises(ValueError, match=words):
    plan.shards(parts, summary(parts, left), wanted)


@pytest.mark.parametrize(
  'size, step', [(1, 64), (64, 64), (100_000, 98), (900_000_000, 4096)]
)
def test_ranges_are_bounded_both_ways(size, step):
  assert part(0, size).step == step


def test_a_rank_tells_range_and_record():
  parts = [part(0, 1000), part(1, 100_000)]
  some, index = parts_lib.located(parts, parts_lib.rank(1, 12_345))
  assert (some.part.number, index) == (1, 12_345)
  assert some.start <= index < some.stop and some.start % parts[1].step == 0
  last = parts_lib.Range(parts[0], 960)
  assert (last.start, last.stop) == (960, 1000)
