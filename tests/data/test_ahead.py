"""Reads that are under way at once: their order, their number, their end."""

import itertools
import threading

import pytest

from imagen_jax.data import ahead


@pytest.mark.parametrize('threads', [1, 3])
def test_results_come_in_order_whichever_is_first(threads):
  later = threading.Event()

  def run(item):
    if item == 0 and threads > 1:
      assert later.wait(30)  # The first waits for one of those behind it.
    if item == 5:
      later.set()
    return item * 2

  assert list(ahead.in_order(run, range(20), threads)) == list(range(0, 40, 2))


def test_no_more_is_begun_than_is_soon_asked_for():
  taken = itertools.count()
  found = ahead.in_order(lambda item: item, taken, 3)
  assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
  found.close()
  assert next(taken) <= 5 + 3 * 4


def test_one_thread_calls_when_it_is_asked():
  taken = itertools.count()
  found = ahead.in_order(lambda _: threading.current_thread(), taken, 1)
  assert next(found) is threading.current_thread()
  assert next(taken) == 1


def test_an_error_is_raised_in_its_place_and_ends_the_rest():
  begun = []

  def run(item):
    begun.append(item)
    if item == 4:
      raise ValueError('of 4')
    return item

  found = ahead.in_order(run, itertools.count(), 2)
  assert [next(found) for _ in range(4)] == [0, 1, 2, 3]
  with pytest.raises(ValueError, match='of 4'):
    next(found)
  assert next(found, None) is None
  assert len(begun) <= 4 + 2 * 4
