"""Where things lie in the unit square: x to the right, y downwards."""

import numpy as np


def in_quarters(
  rng: np.random.Generator, halves: list[float], margin: float
) -> tuple[tuple[float, float], ...]:
  """Returns a centre for each square box, each box in a quarter of its own.

  Quarters keep boxes apart by twice the margin whatever their sizes, where
  drawing and rejecting would hardly ever place four large ones.

  Args:
    rng: source of randomness.
    halves: half the side of each box, at most 0.25 - margin; four at most.
    margin: free border inside a quarter.
  """
  centres = []
  for quarter, half in zip(rng.permutation(4), halves):
    slack = max(0.25 - margin - half, 0.0)
    dx, dy = rng.uniform(-slack, slack, size=2)
    column, row = quarter % 2, quarter // 2
    centres.append(
      (float(0.25 + 0.5 * column + dx), float(0.25 + 0.5 * row + dy))
    )
  return tuple(centres)


def anywhere(
  rng: np.random.Generator, half: float, margin: float
) -> tuple[float, float]:
  """Returns a centre that keeps a box of half side `half` in the picture."""
  low = half + margin
  x, y = rng.uniform(low, 1 - low, size=2)
  return float(x), float(y)


def side_by_side(
  rng: np.random.Generator,
  halves: tuple[float, float],
  *,
  margin: float,
  apart: float,
  aside: float,
) -> tuple[tuple[float, float], tuple[float, float]]:
  """Returns (along, across) of two boxes, the first one first along an axis.

  Args:
    rng: source of randomness.
    halves: half the side of each box.
    margin: free border of the picture; twice as much is left between boxes.
    apart: least distance of the centres along the axis.
    aside: largest distance of the centres across it.
  """
  first, second = halves
  apart = max(apart, first + second + 2 * margin)
  slack = 1 - 2 * margin - first - second - apart
  before, between = sorted(rng.uniform(0, slack, size=2))
  along_first = first + margin + before
  along_second = along_first + apart + (between - before)

  # The larger box first: wherever it fits, the smaller one fits beside it.
  large, small = max(halves) + margin, min(halves) + margin
  across_large = rng.uniform(large, 1 - large)
  across_small = rng.uniform(
    max(small, across_large - aside), min(1 - small, across_large + aside)
  )
  across = (across_large, across_small)
  if second > first:
    across = across[::-1]
  return (
    (float(along_first), float(across[0])),
    (float(along_second), float(across[1])),
  )
