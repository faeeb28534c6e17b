"""Which examples one host's rows of each step are."""

from collections.abc import Sequence
import functools

import numpy as np

from imagen_jax.data import order as order_lib

# Steps whose rows are remembered, so that each task's pipeline need not work
# them out anew.
_REMEMBERED = 64


class Plan:
  """The rows of the global batch that this host makes."""

  def __init__(
    self,
    order: order_lib.Order,
    batch_size: int,
    rows: Sequence[int],
    origin: tuple[int, int] = (0, 0),
  ):
    """Keeps its arguments.

    Args:
      order: of all examples.
      batch_size: of the global batch.
      rows: which of its rows this host makes, ascending. They need not be
        neighbours: a mesh may lay a host's devices anywhere on a torus.
      origin: a step, and the first slot of its batch. Steps before it may have
        had batches of another size.

    Raises:
      ValueError: where there are no such rows.
    """
    rows = np.asarray(rows, np.int64)
    inside = rows.size and 0 <= rows[0] and rows[-1] < batch_size
    if not inside or (np.diff(rows) <= 0).any():
      raise ValueError(
        f'rows are {rows.tolist()}; accepted: some of the train.batch_size '
        f'({batch_size}) rows of a batch, ascending'
      )
    self.order = order
    self._rows = rows
    self._origin = origin
    self.batch_size = batch_size
    self._place = functools.lru_cache(_REMEMBERED)(
      lambda step: order.place(self.slots(step))
    )

  def __len__(self) -> int:
    return len(self._rows)

  def reordered(self, order: order_lib.Order, step: int, slot: int) -> 'Plan':
    """Returns the plan of the same rows in another order, from a step on.

    Args:
      order: of all examples.
      step: the first.
      slot: the first of its batch.
    """
    return Plan(order, self.batch_size, self._rows, (step, slot))

  def first_slot(self, step: int) -> int:
    """Returns the first slot of a step: how many examples came before."""
    since, slot = self._origin
    return slot + (step - since) * self.batch_size

  def slots(self, step: int) -> np.ndarray:
    """Returns the slots of this host's rows of a step, int64 [b]."""
    return self.first_slot(step) + self._rows

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
