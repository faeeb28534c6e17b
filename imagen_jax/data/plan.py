"""Which examples one host's rows of each step are."""

import functools

import numpy as np

from imagen_jax.data import order as order_lib

# Steps whose rows are remembered, so that each task's pipeline need not work
# them out anew.
_REMEMBERED = 64


class Plan:
  """The rows of the global batch that this host makes."""

  def __init__(
    self, order: order_lib.Order, batch_size: int, rows: tuple[int, int]
  ):
    """Keeps its arguments.

    Args:
      order: of all examples.
      batch_size: of the global batch.
      rows: the first of this host's rows of it, and the one after the last.

    Raises:
      ValueError: where there are no such rows.
    """
    start, stop = rows
    if not 0 <= start < stop <= batch_size:
      raise ValueError(
        f'rows are {start} to {stop}; accepted: a part of the '
        f'train.batch_size ({batch_size}) rows of a batch, not empty'
      )
    self.order = order
    self._batch_size = batch_size
    self._rows = np.arange(start, stop, dtype=np.int64)
    self._place = functools.lru_cache(_REMEMBERED)(
      lambda step: order.place(self.slots(step))
    )

  def __len__(self) -> int:
    return len(self._rows)

  def slots(self, step: int) -> np.ndarray:
    """Returns the slots of this host's rows of a step, int64 [b]."""
    return step * self._batch_size + self._rows

  def tasks(self, step: int) -> np.ndarray:
    """Returns the task number of each of this host's rows, int64 [b]."""
    return self._place(int(step))[0]

  def seats(self, step: int, task: int) -> tuple[np.ndarray, ...]:
    """Returns the seats of a task's rows; see `source.seats`."""
    tasks, positions = self._place(int(step))
    slots = self.slots(int(step))[tasks == task]
    positions = positions[tasks == task]
    records = self.order.records(task, positions)
    return slots, positions, records, self.order.example_seed(slots)
