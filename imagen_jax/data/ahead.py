"""Reads that are under way at once, their results in order."""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures

# Results, for each thread, that wait for one before them: a slow read does not
# make the others wait until so many have overtaken it.
_HELD = 4


def in_order(function: Callable, items: Iterable, threads: int) -> Iterator:
  """Returns function(item) of each item, in their order.

  At most `threads` are under way, and a few times as many results are held.
  Items are taken as they are needed, so that there may be any number of them.
  Where one fails, its error is raised in its place and the rest is given up.

  Args:
    function: is called in several threads, where there are several.
    items: what it is called with.
    threads: 1 calls it in the caller's own, when its result is asked for.
  """
  if threads == 1:
    return map(function, items)
  return _side_by_side(function, items, threads)


def _side_by_side(function, items, threads):
  pool = futures.ThreadPoolExecutor(threads)
  started = collections.deque()
  try:
    for item in items:
      started.append(pool.submit(function, item))
      if len(started) == _HELD * threads:
        yield started.popleft().result()
    while started:
      yield started.popleft().result()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
