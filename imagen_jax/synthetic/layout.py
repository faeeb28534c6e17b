"""Where things lie in the unit square: x to the right, y downwards."""

import numpy as np

# By how many there are. Fixed places: a caption then says all of its picture
# but a little wander, and minutes are enough to learn from.
PLACES = {
  1: ((0.5, 0.5),),
  2: ((0.25, 0.5), (0.75, 0.5)),
  3: ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75)),
  4: ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
}


def wander(
  rng: np.random.Generator,
  places: tuple[tuple[float, float], ...],
  halves: list[float],
  *,
  most: float,
  margin: float,
) -> tuple[tuple[float, float], ...]:
  """Returns a centre for each square box, near its place.

  No box leaves the half or quarter of the picture around its place, so boxes
  keep apart by twice the margin whatever their sizes.

  Args:
    rng: source of randomness.
    places: one of `PLACES`, or as far apart.
    halves: half the side of each box, at most 0.25 - margin where there are
      several.
    most: a centre's largest distance from its place along either axis.
    margin: free border inside a half or quarter.
  """
  room = 0.5 if len(places) == 1 else 0.25
  centres = []
  for (x, y), half in zip(places, halves, strict=True):
    slack = min(most, max(room - margin - half, 0.0))
    dx, dy = rng.uniform(-slack, slack, size=2)
    centres.append((float(x + dx), float(y + dy)))
  return tuple(centres)
