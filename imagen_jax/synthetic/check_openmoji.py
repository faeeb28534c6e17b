"""Reads background, count, place and object back from pixels.

Made to measure generated pictures: nothing is taken from the caption while
reading, and the object is the nearest of all drawings that it might be.
"""

import collections.abc
import dataclasses
import functools

import numpy as np
from PIL import Image
from scipy import ndimage

from imagen_jax.synthetic import drawings
from imagen_jax.synthetic import openmoji

KEYS = ('background', 'count', 'position', 'top1', 'top5')

_INK = 48  # Least distance in RGB from the background to be ink.
_FAR_BACKGROUND = 60  # Distance in RGB at which a colour is none of ours.
_SPECK = 0.001  # Of the picture's area; less is noise.
# Diagonal neighbours join: outlines are a pixel thin.
_EIGHT = np.ones((3, 3), bool)
# A piece this small beside the largest belongs to the piece nearest to it,
# if that is this near (over the side): a flame to its candle.
_PIECE = 0.3
_PIECE_GAP = 0.13
_LONGEST = 0.67  # Over the side: more must be two objects that touch.
_OFF_CENTRE = 0.1  # Between 'middle' and the other places.
# Objects are compared at this size, in a window with this border around.
_CANON = 32
_PART = 128  # Divides a window's 32 * 32 * 3 numbers.
_BORDER = 0.08
_MOST_PIXELS = 64
_BLURS = (0, 0.8)  # That a generated picture may have, in pixels.
_SHIFTS = (-0.04, 0.0, 0.04)
_SCALES = (0.95, 1.0, 1.06)


@dataclasses.dataclass(frozen=True)
class Observed:
  """What was read from a picture.

  Attributes:
    background: one of `openmoji.BACKGROUNDS`, or 'none' where the ground is
      far from all of them.
    boxes: (left, top, right, bottom) of each object, over the side.
    position: of the largest object, one of `openmoji.POSITIONS`; 'none' where
      there is no object.
    ranking: the names that were asked about, nearest first; empty where
      there is no object.
  """

  background: str
  boxes: tuple[tuple[float, float, float, float], ...]
  position: str
  ranking: tuple[str, ...]

  @property
  def count(self) -> int:
    """How many objects there are."""
    return len(self.boxes)


def read(image: np.ndarray, names: collections.abc.Sequence[str]) -> Observed:
  """Returns what a picture shows.

  Args:
    image: uint8 [S, S, 3], S at least 16.
    names: the objects that it might show, of `drawings.objects()`.

  Raises:
    ValueError: for another kind of image, or an unknown name.
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
  names = tuple(names)
  ground, background = _ground(image)
  boxes = _boxes(image, ground)
  if not boxes:
    return Observed(background, (), 'none', ())
  distances = sum(_distances(image, box, ground, names) for box in boxes)
  side = len(image)
  return Observed(
    background=background,
    boxes=tuple(tuple(edge / side for edge in box) for box in boxes),
    position=_position(boxes[0], side),
    ranking=tuple(names[index] for index in np.argsort(distances)),
  )


def _ground(image):
  """Returns the background's RGB, float32 [3], and its name."""
  border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
  ground = np.median(border, axis=0).astype(np.float32)
  named = np.float32(list(openmoji.BACKGROUNDS.values()))
  distances = np.linalg.norm(named - ground, axis=-1)
  nearest = distances.argmin()
  if distances[nearest] > _FAR_BACKGROUND:
    return ground, 'none'
  return ground, list(openmoji.BACKGROUNDS)[nearest]


def _boxes(image, ground):
  """Returns (left, top, right, bottom) of each object, largest area first."""
  ink = np.linalg.norm(image - ground, axis=-1) > _INK
  labels, areas = _components(ink)
  ink &= np.append(0, areas)[labels] >= max(_SPECK * ink.size, 2)
  # An outline may have a gap of a pixel; objects are 0.06 of the side apart.
  reach = len(image) // 48
  if reach:
    ink = ndimage.binary_dilation(ink, _EIGHT, reach)
  ink = _cut(ndimage.binary_fill_holes(ink))
  labels, areas = _components(ink)
  slices = ndimage.find_objects(labels)
  found = []
  for index in np.argsort(-areas, kind='stable'):
    rows, columns = slices[index]
    box = [
      columns.start + reach,
      rows.start + reach,
      columns.stop - reach,
      rows.stop - reach,
    ]
    small = areas[index] < _PIECE * areas.max()
    host = min(found, key=lambda other: _gap(box, other), default=None)
    if not small:
      found.append(box)
    elif host and _gap(box, host) <= _PIECE_GAP * len(image):
      host[:2] = np.minimum(host[:2], box[:2]).tolist()
      host[2:] = np.maximum(host[2:], box[2:]).tolist()
  return found


def _cut(mask):
  """Returns a mask with each component too long for one object cut apart.

  Neighbours touch where a picture is small or blurred. The cut is across the
  component's waist, in the middle third of its longer side.
  """
  mask = mask.copy()
  for _ in range(2):  # Three or four in an L or a square need a second cut.
    labels, _ = _components(mask)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
      here = labels[box] == number
      axis = int(here.shape[1] > here.shape[0])
      length = here.shape[axis]
      if length > _LONGEST * len(mask):
        profile = here.sum(axis=1 - axis)
        third = length // 3
        waist = third + profile[third : length - third].argmin()
        line = [slice(None), slice(None)]
        line[axis] = waist
        mask[box][tuple(line)] &= ~here[tuple(line)]
  return mask


def _components(mask):
  """Returns the labels of a mask's components, and their areas in pixels."""
  labels, number = ndimage.label(mask, _EIGHT)
  return labels, np.bincount(labels.ravel(), minlength=number + 1)[1:]


def _gap(box, other):
  """Distance in pixels between two boxes, 0 where they meet."""
  dx = max(box[0] - other[2], other[0] - box[2], 0)
  dy = max(box[1] - other[3], other[1] - box[3], 0)
  return max(dx, dy)


def _position(box, side):
  left, top, right, bottom = box
  dx = (left + right) / 2 / side - 0.5
  dy = (top + bottom) / 2 / side - 0.5
  if max(abs(dx), abs(dy)) < _OFF_CENTRE:
    return 'middle'
  if abs(dx) > abs(dy):
    return 'left' if dx < 0 else 'right'
  return 'top' if dy < 0 else 'bottom'


@functools.lru_cache(maxsize=64)
def _templates(names, pixels, blur):
  """Returns drawings as premultiplied colour [N, P, 3] and alpha [N, P, 1].

  They are drawn as small as they are in the picture and then enlarged, so
  that they lack the detail which the picture lacks.
  """
  side = round(pixels * (1 + 2 * _BORDER))
  small = []
  for name in names:
    drawn = drawings.drawing(name, pixels)
    height, width = drawn.shape[:2]
    canvas = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    patch = canvas[top : top + height, left : left + width]
    patch[..., 3] = drawn[..., 3]
    patch[..., :3] = drawn[..., :3] * (patch[..., 3:] / 255)
    canvas = ndimage.gaussian_filter(canvas, (blur, blur, 0))
    # 'RGBX' is four plain channels: of 'RGBA', Pillow would weigh colours.
    pixels_8bit = np.round(canvas).astype(np.uint8).tobytes()
    image = Image.frombytes('RGBX', (side, side), pixels_8bit)
    resized = image.resize((_CANON, _CANON), Image.Resampling.BILINEAR)
    small.append(np.asarray(resized, np.float32).reshape(-1, 4))
  small = np.stack(small)
  return small[..., :3], small[..., 3:] / 255


def _distances(image, box, ground, names):
  """Returns the squared distance of an object to each drawing, [N]."""
  extent = max(box[2] - box[0], box[3] - box[1])
  # Even sizes only: half as many drawings to make.
  pixels = min(max(2 * round(extent / 2), 8), _MOST_PIXELS)
  views = _views(image, box, ground)
  norms = (views**2).sum(-1)[:, None]
  nearest = []
  for blur in _BLURS:
    colours, alphas = _templates(names, pixels, blur)
    drawn = (colours + (1 - alphas) * ground).reshape(len(names), -1)
    squares = norms - 2 * _products(views, drawn) + (drawn**2).sum(-1)
    nearest.append(squares.min(axis=0))
  return np.min(nearest, axis=0)


def _products(views, drawn):
  """Returns views [V, P] @ drawn.T [P, N], summed over parts of P.

  BLAS runs the product of a small part in one thread. On a machine that is
  busy, as in the middle of a training run, two threads that wait for each
  other made this ten times slower.
  """
  views = views.reshape(len(views), -1, _PART).transpose(1, 0, 2)
  drawn = drawn.reshape(len(drawn), -1, _PART).transpose(1, 2, 0)
  return (views @ drawn).sum(axis=0)


def _views(image, box, ground):
  """Returns the object under several shifts and scales, [V, P * 3]."""
  # A window may reach over the border, where there is more background.
  pad = len(image) // 2
  side = len(image) + 2 * pad
  padded = np.empty((side, side, 3), np.uint8)
  padded[:] = np.round(ground)
  padded[pad:-pad, pad:-pad] = image
  padded = Image.fromarray(padded)

  left, top, right, bottom = box
  extent = max(right - left, bottom - top)
  centre_x, centre_y = pad + (left + right) / 2, pad + (top + bottom) / 2
  views = []
  for scale in _SCALES:
    half = extent * scale * (0.5 + _BORDER)
    for shift_x in _SHIFTS:
      for shift_y in _SHIFTS:
        x, y = centre_x + shift_x * extent, centre_y + shift_y * extent
        window = (x - half, y - half, x + half, y + half)
        window = tuple(min(max(edge, 0), side) for edge in window)
        view = padded.resize(
          (_CANON, _CANON), Image.Resampling.BILINEAR, window
        )
        views.append(np.asarray(view, np.float32).reshape(-1))
  return np.stack(views)


def score(
  image: np.ndarray,
  caption: str,
  names: collections.abc.Sequence[str] = openmoji.QUICK_OBJECTS,
) -> dict[str, bool | None]:
  """Returns what of `caption` a picture gets right, by key.

  'background' is right where its nearest named colour is the stated one,
  'count' where there are as many objects as stated, 'position' where the
  largest object lies as stated (None where the caption says nothing of it),
  'top1' where the drawing nearest to all objects together is the stated one,
  'top5' where the stated one is among the nearest five.

  Args:
    image: uint8 [S, S, 3], S at least 16.
    caption: of the openmoji grammar.
    names: the objects to choose from, the stated one among them.

  Raises:
    ValueError: for another kind of image or caption, or where `names` lacks
      the stated object.
  """
  statement = openmoji.parse(caption)
  if statement.name not in names:
    raise ValueError(
      f'caption {caption!r} names {statement.name!r}, which is not among '
      f'the {len(names)} names; accepted: names that hold it'
    )
  seen = read(image, names)
  stated = statement.position != 'middle'
  return {
    'background': seen.background == statement.background,
    'count': seen.count == statement.count,
    'position': seen.position == statement.position if stated else None,
    'top1': statement.name in seen.ranking[:1],
    'top5': statement.name in seen.ranking[:5],
  }
