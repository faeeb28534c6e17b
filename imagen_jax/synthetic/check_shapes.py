"""Reads coloured shapes back from pixels, and scores a picture by its caption.

Made to measure generated pictures: blur, noise and small specks are borne,
and nothing is taken from the caption while reading.
"""

import collections.abc
import dataclasses
import math

import numpy as np
from scipy import ndimage

from imagen_jax.synthetic import shapes

KEYS = ('colour', 'shape', 'size', 'count', 'position')

_COLOURS = tuple(shapes.COLOURS)
# Area over the squared diameter, by shape.
_AREAS = {
  'circle': math.pi / 4,
  'square': math.prod(shapes.EXTENTS['square']),
  'triangle': math.prod(shapes.EXTENTS['triangle']) / 2,
  'cross': 2 * shapes.EXTENTS['cross'][0] * shapes.CROSS_ARM
  - shapes.CROSS_ARM**2,
}
# A centroid's height below the centre, over the diameter.
_CENTROIDS = {'circle': 0.0, 'square': 0.0, 'triangle': 1 / 6, 'cross': 0.0}
_SIZE_BORDER = math.sqrt(shapes.SIZES['small'] * shapes.SIZES['large'])
# A third of the smallest shape's area over the picture's; less is a speck.
_SPECK = 0.007
_COVERED = 0.5  # Least share of a pixel that makes it an object's.
_BLURS = (0, 0.6, 1.0)  # That a generated picture may have, in pixels.
# Least overlap with a shape to be one. True pictures of 32 pixels and more,
# with noise and blur, stay above 0.77; half circles, L's and X's below 0.7.
_LEAST_OVERLAP = 0.72
_NEAR_BACKGROUND = 60  # Distance in RGB.
_APART = 0.1  # Least distance of centres for a relation to be seen.


@dataclasses.dataclass(frozen=True)
class Observed:
  """One object as read from pixels.

  Attributes:
    thing: its colour, shape and size; its shape is 'none' where it looks like
      none of them.
    x: of its centre, over the picture's side.
    y: of its centre, over the picture's side, downwards.
    diameter: over the picture's side.
    overlap: of its pixels with the nearest shape, intersection over union in
      [0, 1].
  """

  thing: shapes.Thing
  x: float
  y: float
  diameter: float
  overlap: float


def read(image: np.ndarray) -> list[Observed]:
  """Returns the objects of a picture, from left to right.

  Args:
    image: uint8 [S, S, 3], S at least 16.

  Raises:
    ValueError: for another type or shape.
  """
  if (
    image.dtype != np.uint8
    or image.ndim != 3
    or image.shape[0] != image.shape[1]
    or image.shape[0] < 16
    or image.shape[2] != 3
  ):
    raise ValueError(
      f'image is {image.dtype} {list(image.shape)}; accepted: uint8 '
      '[S, S, 3] with S at least 16'
    )
  colours, covered = _segment(image.astype(np.float32))
  found = []
  for index, colour in enumerate(_COLOURS):
    mask = (colours == index) & (covered >= _COVERED)
    labels, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
      here = labels[box] == number
      if here.sum() >= _SPECK * mask.size:
        found.append(_observe(colour, labels, number, box, covered))
  return sorted(found, key=lambda seen: (seen.x, seen.y))


def _segment(image):
  """Returns each pixel's nearest colour and how much of it is covered.

  A pixel is a mix of the background and one colour. So the colour is read
  from the direction in which a pixel departs from the background, and the
  share from how far; nearest colours would find green around all that is
  black.
  """
  nominal = np.float32(shapes.BACKGROUND)
  plain = np.linalg.norm(image - nominal, axis=-1) < _NEAR_BACKGROUND
  enough = plain.mean() > 0.05
  background = np.median(image[plain], axis=0) if enough else nominal
  departures = np.float32(list(shapes.COLOURS.values())) - background  # [6, 3]
  lengths = np.linalg.norm(departures, axis=-1)
  along = (image - background) @ (departures / lengths[:, None]).T  # [S, S, 6]
  colours = along.argmax(axis=-1)
  nearest = np.take_along_axis(along, colours[..., None], -1)[..., 0]
  return colours, nearest / lengths[colours]


def _observe(colour, labels, number, box, covered):
  """Returns one component of `labels` as an object."""
  side = len(labels)
  # The soft edge lies around the mask and belongs to the object, unless it
  # is another's.
  grown = tuple(
    slice(max(edge.start - 2, 0), min(edge.stop + 2, side)) for edge in box
  )
  core = labels[grown] == number
  others = (labels[grown] > 0) & ~core
  near = ndimage.binary_dilation(core, iterations=2) & ~others
  soft = np.where(near, np.clip(covered[grown], 0, 1), 0)
  area = soft.sum()
  rows, columns = np.indices(soft.shape) + 0.5
  x, y = (soft * columns).sum() / area, (soft * rows).sum() / area

  best = None
  for shape in shapes.SHAPES:
    diameter = math.sqrt(area / _AREAS[shape])
    centre_y = y - _CENTROIDS[shape] * diameter
    drawn = shapes.silhouette(shape, x, centre_y, diameter, soft.shape)
    for blur in _BLURS:
      blurred = ndimage.gaussian_filter(drawn, blur) if blur else drawn
      lesser, greater = np.minimum(blurred, soft), np.maximum(blurred, soft)
      overlap = lesser.sum() / greater.sum()
      if best is None or overlap > best[0]:
        best = (overlap, shape, centre_y, diameter)
  overlap, shape, centre_y, diameter = best
  size = 'small' if diameter / side < _SIZE_BORDER else 'large'
  shape = shape if overlap >= _LEAST_OVERLAP else 'none'
  return Observed(
    shapes.Thing(colour, shape, size),
    x=float(grown[1].start + x) / side,
    y=float(grown[0].start + centre_y) / side,
    diameter=diameter / side,
    overlap=float(overlap),
  )


def score(image: np.ndarray, caption: str) -> dict[str, bool | None]:
  """Returns what of `caption` a picture gets right, by key.

  'count' is right where there are as many objects as stated. For the other
  keys each object that is seen is paired with a thing of the caption: the
  one it agrees with most, colour before shape before size. 'colour', 'shape'
  and 'size' are right where every thing has an object, and every object
  agrees with its thing. 'position' is right where every thing has an object
  and the relation holds between their centres, clearly: along its axis by a
  tenth of the side, and further than across it; None where the caption
  states no relation.

  Args:
    image: uint8 [S, S, 3], S at least 16.
    caption: of the shapes grammar.

  Raises:
    ValueError: for another kind of image or caption.
  """
  statement = shapes.parse(caption)
  return score_observed(read(image), statement)


def score_observed(
  observed: collections.abc.Sequence[Observed], statement: shapes.Statement
) -> dict[str, bool | None]:
  """As `score`, of what `read` returned and `shapes.parse` returned."""
  things = statement.things
  pairs = _pair(observed, things)
  complete = {index for _, index in pairs} == set(range(len(things)))
  right = {
    key: complete
    and all(
      getattr(seen.thing, key) == getattr(things[index], key)
      for seen, index in pairs
    )
    for key in ('colour', 'shape', 'size')
  }
  stated = statement.count if len(things) == 1 else len(things)
  right['count'] = len(observed) == stated
  right['position'] = None
  if statement.relation:
    right['position'] = complete and _holds(pairs, statement.relation)
  return right


def _pair(observed, things):
  """Returns (object, index of its thing) pairs of all objects."""

  def agreement(seen, thing):
    return (
      4 * (seen.thing.colour == thing.colour)
      + 2 * (seen.thing.shape == thing.shape)
      + (seen.thing.size == thing.size)
    )

  if len(things) == 2 and len(observed) == 2:
    # Each thing has one: the better of two ways.
    ways = [((observed[0], i), (observed[1], 1 - i)) for i in (0, 1)]
    return max(
      ways, key=lambda way: sum(agreement(s, things[i]) for s, i in way)
    )
  return [
    (seen, max(range(len(things)), key=lambda i: agreement(seen, things[i])))
    for seen in observed
  ]


def _holds(pairs, relation):
  centres = [
    np.mean([(s.x, s.y) for s, index in pairs if index == wanted], axis=0)
    for wanted in (0, 1)
  ]
  if relation in shapes.MIRRORED:
    relation = shapes.MIRRORED[relation]
    centres = centres[::-1]
  dx, dy = centres[1] - centres[0]
  along, across = (dx, dy) if relation == 'to the left of' else (dy, dx)
  return bool(along >= _APART and along > abs(across))
