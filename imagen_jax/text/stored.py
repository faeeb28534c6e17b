"""An array of a checkpoint that has been opened, and not yet read."""

from collections.abc import Callable
import dataclasses

import numpy as np

FIELD = 'text.checkpoint'


@dataclasses.dataclass(frozen=True)
class Stored:
  """An array of a checkpoint.

  Attributes:
    shape: its shape.
    dtype: of its elements, as stored.
    chunks: shape of the pieces that storage reads whole; at most `shape`.
    read: returns the slice of a tuple of slices, one an axis.
    stack: where the array is a layer of a stacked one, that one and the
      number of the layer, on axis 1. Who wants all layers reads the stack:
      its chunks hold many layers each.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  chunks: tuple[int, ...]
  read: Callable[[tuple[slice, ...]], np.ndarray]
  stack: 'tuple[Stored, int] | None' = None


def of_array(value: np.ndarray) -> Stored:
  """Returns the `Stored` of an array in memory."""
  return Stored(value.shape, value.dtype, value.shape, value.__getitem__)


def layers(stack: Stored) -> list[Stored]:
  """Returns the layers of an array that has them on axis 1."""

  def layer(i):
    def read(index):
      return stack.read((index[0], slice(i, i + 1), *index[1:]))[:, 0]

    return Stored(
      stack.shape[:1] + stack.shape[2:],
      stack.dtype,
      stack.chunks[:1] + stack.chunks[2:],
      read,
      (stack, i),
    )

  return [layer(i) for i in range(stack.shape[1])]
