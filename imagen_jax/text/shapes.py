"""The static shapes that captions are encoded in.

A compiled encoder rounds a little differently for every shape. So the shape in
which a caption is computed depends on the caption alone: it is padded to the
least of a few lengths that hold it, `text.rows` captions to a device. Then its
embedding has the same bits whoever computes it, beside whatever captions: one
host or many, ahead of time or during training.
"""

from collections.abc import Iterator

import numpy as np

_SHORTEST = 8


def lengths(max_length: int) -> list[int]:
  """Returns the lengths that captions are padded to, ascending.

  Powers of two and the numbers half-way between, from 8, and `max_length`: 9
  up to 128. Each costs a compilation; a caption is padded by at most a half.

  Args:
    max_length: `text.max_length`.
  """
  found, power = [], _SHORTEST
  while power < max_length:
    found += [power, power + power // 2]
    power *= 2
  return [length for length in found if length < max_length] + [max_length]


def tiles(
  token_counts: np.ndarray, shapes: list[int], rows: int
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields (positions, length) of batches of captions, the longest first.

  Args:
    token_counts: tokens of each caption, int [n].
    shapes: ascending lengths, the last of which holds every caption.
    rows: most captions of a batch.
  """
  bucket = np.searchsorted(shapes, token_counts)
  for number in reversed(range(len(shapes))):
    positions = np.flatnonzero(bucket == number)
    for first in range(0, len(positions), rows):
      yield positions[first : first + rows], shapes[number]
