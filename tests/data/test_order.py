import collections
import dataclasses
import re

import numpy as np
import pytest

from imagen_jax.data import order as order_lib


def make(seed=0, rates=(1.0,), sizes=(10,), shuffle=True):
  names = tuple('abc'[: len(rates)])
  return order_lib.Order(seed, names, rates, sizes, shuffle)


@pytest.mark.parametrize('size', [1, 2, 3, 10, 1000, 5040, 65537])
def test_permute_is_a_bijection_that_depends_on_the_key(size):
  index = np.arange(size)
  found = [
    order_lib.permute(index, size, np.array([key], np.uint64))
    for key in range(3)
  ]
  for one in found:
    np.testing.assert_array_equal(np.sort(one), index)
  if size >= 10:
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])


def test_permute_of_a_part_is_that_part_of_the_permutation():
  key = np.array([7], np.uint64)
  whole = order_lib.permute(np.arange(1000), 1000, key)
  some = order_lib.permute(np.array([900, 3, 3]), 1000, key)
  np.testing.assert_array_equal(some, whole[[900, 3, 3]])


def test_all_permutations_of_four_are_about_equally_likely():
  draws = 4800
  keys = np.arange(draws, dtype=np.uint64)
  columns = [
    order_lib.permute(np.full(draws, index), 4, keys) for index in range(4)
  ]
  counts = collections.Counter(zip(*map(list, columns)))
  assert len(counts) == 24
  chi_square = sum((n - 200) ** 2 / 200 for n in counts.values())
  assert chi_square < 60  # 23 degrees of freedom: 1 in 40,000 by chance.


def test_neighbours_are_scattered():
  key = np.array([1], np.uint64)
  where = order_lib.permute(np.arange(10_000), 10_000, key)
  assert abs(np.corrcoef(where[:-1], where[1:])[0, 1]) < 0.05


@pytest.mark.parametrize(
  ('rates', 'counts'),
  [
    ((1.0,), [5040]),
    ((1.0, 2.0), [1680, 3360]),
    ((0.3, 0.3, 0.3), [1680, 1680, 1680]),
    ((5.0, 3.0, 1.0), [2800, 1680, 560]),
    ((1.0, 10.0), [458, 4582]),
  ],
)
def test_every_block_has_the_exact_proportions(rates, counts):
  order = make(rates=rates, sizes=(7,) * len(rates))
  for block in range(2):
    slots = np.arange(block * order_lib.BLOCK, (block + 1) * order_lib.BLOCK)
    task, _ = order.place(slots)
    np.testing.assert_array_equal(np.bincount(task), counts)


def test_short_stretches_are_mixed():
  task, _ = make(rates=(1.0, 1.0), sizes=(7, 7)).place(np.arange(256))
  assert 96 < task.sum() < 160


def test_positions_of_each_task_count_up_with_none_left_out():
  order = make(rates=(1.0, 2.0), sizes=(7, 9))
  task, position = order.place(np.arange(2 * order_lib.BLOCK))
  for number in range(2):
    mine = position[task == number]
    np.testing.assert_array_equal(mine, np.arange(2 * order.counts[number]))


def test_any_slots_can_be_placed_in_any_order():
  order = make(rates=(1.0, 2.0), sizes=(7, 9))
  whole = np.stack(order.place(np.arange(3 * order_lib.BLOCK)))
  slots = np.array([12_000, 3, 5039, 5040, 3])
  np.testing.assert_array_equal(np.stack(order.place(slots)), whole[:, slots])


def test_every_record_comes_once_an_epoch_in_an_order_of_its_own():
  order = make(sizes=(100,))
  first = order.records(0, np.arange(100))
  second = order.records(0, np.arange(100, 200))
  np.testing.assert_array_equal(np.sort(first), np.arange(100))
  np.testing.assert_array_equal(np.sort(second), np.arange(100))
  assert not np.array_equal(first, second)
  # Positions of two epochs at once are told apart.
  both = order.records(0, np.array([99, 100]))
  np.testing.assert_array_equal(both, [first[99], second[0]])


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('size', [1, 2, 3, 10])
def test_attempts_of_a_position_go_through_all_records(size, shuffle):
  order = make(sizes=(size,), shuffle=shuffle)
  for position in range(size):
    tried = [int(order.records(0, [position], n)[0]) for n in range(size)]
    assert sorted(tried) == list(range(size))


def test_what_stands_in_for_neighbours_lies_apart():
  """Where a shard of neighbours is gone, one record is not seen for all."""
  order = make(sizes=(1000,), shuffle=False)
  gone = np.arange(300, 400)
  found = order.records(0, gone, 1)
  assert len(set(found)) == 100 and not set(found) & set(gone)


def test_unshuffled_records_come_as_they_lie():
  order = make(sizes=(4,), shuffle=False)
  found = order.records(0, np.arange(6))
  np.testing.assert_array_equal(found, [0, 1, 2, 3, 0, 1])


def test_the_seed_changes_everything_and_nothing_else_does():
  slots = np.arange(64)
  one, same, other = (
    make(seed, rates=(1.0, 1.0), sizes=(99, 99)) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one.place(slots), same.place(slots))
  assert not np.array_equal(one.place(slots)[0], other.place(slots)[0])
  assert not np.array_equal(one.records(0, slots), other.records(0, slots))
  assert not np.array_equal(one.records(0, slots), one.records(1, slots))
  seeds = one.example_seed(slots)
  assert seeds.dtype == np.int32 and seeds.shape == (64, 2)
  assert len({tuple(seed) for seed in seeds}) == 64
  assert not np.array_equal(seeds, other.example_seed(slots))


def test_the_order_is_pinned():
  # A change here breaks the resuming of every run: raise order.VERSION.
  order = make(3, rates=(1.0, 2.0), sizes=(1000, 50))
  task, position = order.place(np.arange(10**9, 10**9 + 6))
  assert order_lib.VERSION == 1
  np.testing.assert_array_equal(task, [1, 1, 1, 1, 0, 1])
  np.testing.assert_array_equal(
    position,
    [666666653, 666666654, 666666655, 666666656, 333333347, 666666657],
  )
  np.testing.assert_array_equal(
    order.records(0, np.arange(6)), [728, 994, 854, 191, 773, 59]
  )
  np.testing.assert_array_equal(
    order.example_seed([5]), [[2012160804, -894339453]]
  )
  places = order_lib.places(order.example_seed([5]))
  assert places.tolist() == [[0.30230050717172574, 0.09765193901892355]]


def test_a_task_without_records_is_refused():
  with pytest.raises(ValueError, match=r'data.tasks\[b\] has 0 records'):
    make(rates=(1.0, 1.0), sizes=(1, 0))


def test_a_share_too_small_to_be_dealt_is_refused():
  message = r'data.tasks[a].rate is 5e-05, of 1.00005 in all; accepted: at'
  with pytest.raises(ValueError, match=re.escape(message)):
    make(rates=(0.00005, 1.0), sizes=(1, 1))


def keep(order, slots):
  """Which of its slots each task has: [(slot, position)] of each."""
  task, position = order.place(np.arange(slots))
  found = zip(task.tolist(), range(slots), position.tolist())
  streams = {}
  for number, slot, place in found:
    streams.setdefault(number, []).append((slot, place))
  return streams


@pytest.mark.parametrize(
  'slot', [1, 77, order_lib.BLOCK, 3 * order_lib.BLOCK + 9]
)
def test_rates_change_at_a_slot_and_no_record_is_left_out(slot):
  plain = make(rates=(1.0, 1.0, 2.0), sizes=(10, 20, 30))
  order = plain.changed(slot, (6.0, 1.0, 1.0))
  count = slot + 2 * order_lib.BLOCK
  before, after = keep(plain, slot), keep(order, count)
  for task, stream in after.items():
    # What came before is as it was, and positions go on where they were.
    assert stream[: len(before.get(task, ()))] == before.get(task, [])
    assert [place for _, place in stream] == list(range(len(stream)))
  task, _ = order.place(np.arange(slot, count))
  shares = np.bincount(task) / len(task)
  np.testing.assert_array_equal(shares, [0.75, 0.125, 0.125])


def test_rates_change_again_and_any_slot_is_placed_alone():
  order = make(rates=(1.0, 1.0), sizes=(10, 20))
  order = order.changed(100, (1.0, 3.0)).changed(7000, (3.0, 1.0))
  assert [slot for slot, _ in order.changes] == [100, 7000]
  slots = np.arange(20_000)
  task, position = order.place(slots)
  assert [row.tolist() for row in order.place(slots[::-7])] == [
    task[::-7].tolist(),
    position[::-7].tolist(),
  ]
  # From before a change that was made, the future is free.
  other = order.changed(50, (1.0, 3.0))
  assert [slot for slot, _ in other.changes] == [50]
  assert order.changed(7000, (1.0, 3.0)).changes == order.changes[:1]
  assert order.changed(0, (1.0, 3.0)) == make(rates=(1.0, 3.0), sizes=(10, 20))


def test_the_same_shares_are_no_change():
  order = make(rates=(1.0, 3.0), sizes=(10, 20))
  assert order.changed(100, (2.0, 6.0)) == order


def test_a_share_that_becomes_too_small_is_refused():
  order = make(rates=(1.0, 3.0), sizes=(10, 20))
  with pytest.raises(ValueError, match=r'rate is 1e-09, of 1.0+1 in all'):
    order.changed(100, (1.0, 1e-9))
  with pytest.raises(ValueError, match=r'changes at slots \[9, 9\]; accepted'):
    dataclasses.replace(order, changes=((9, (1.0, 1.0)), (9, (1.0, 2.0))))
