"""What a stage takes of a picture: a square, at the stage's sizes.

Decoding takes most of the time that data costs, and a resize the rest. So one
call of Pillow's does all that is left of it: crop and resize are of the pixels
that JPEG gives at the scale that suffices, and only of those within the crop.
"""

import dataclasses

import numpy as np

from imagen_jax import config as config_lib
from imagen_jax import pictures


@dataclasses.dataclass(frozen=True)
class Squares:
  """Which square of a picture is taken, and at which sizes.

  Attributes:
    image_size: pixels on a side of `image`.
    lowres_size: those of `lowres`; None makes none.
    whole_size: the square is one of `image_size` of the picture at so many
      pixels of its shorter side; None takes the largest square.
    crop: 'center' or 'random'.
    dct_scaling: see `config.DataConfig`.
  """

  image_size: int
  lowres_size: int | None = None
  whole_size: int | None = None
  crop: str = 'center'
  dct_scaling: float | None = None

  @property
  def least_side(self) -> int:
    """Pixels of the shorter side that a picture must have."""
    return self.whole_size or self.image_size

  @property
  def shorter(self) -> float | None:
    """Pixels of its shorter side that suffice; None is all that it has."""
    return self.dct_scaling and self.dct_scaling * self.least_side

  def cut(
    self, picture: pictures.Picture, place: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns `image`, uint8 [S, S, 3], and `lowres`, or None.

    Of the largest square both are resized from it alike, so that a stage's
    `lowres` is the `image` that the stage below it trains on, but for the scale
    at which JPEG was decoded. Of a square of a shrunk whole `lowres` is resized
    from `image`.

    Args:
      picture: neither side under `least_side`.
      place: of a random crop, how far from the left and from the top: float64
        [2] in [0, 1).
    """
    box = self._box((picture.width, picture.height), place)
    image = picture.resized(box, self.image_size)
    if self.lowres_size is None:
      return np.asarray(image), None
    if self.whole_size is None:
      lowres = picture.resized(box, self.lowres_size)
    else:
      lowres = pictures.resize(image, self.lowres_size)
    return np.asarray(image), np.asarray(lowres)

  def _box(self, sides, place):
    """Left, top, right and bottom of the square, in pixels of the picture."""
    if self.whole_size is None:
      shrunk, side = sides, min(sides)
    else:
      factor = self.whole_size / min(sides)
      shrunk = tuple(round(each * factor) for each in sides)
      side = self.image_size
    box = []
    for share, whole, full in zip(place, shrunk, sides):
      spare = whole - side
      first = spare // 2
      if self.crop == 'random':
        first = int(share * (spare + 1))
      box.append((first * full / whole, (first + side) * full / whole))
    (left, right), (top, bottom) = box
    return left, top, right, bottom


def of(config: config_lib.Config) -> Squares:
  """Returns what the stage of a config takes."""
  stage, data = config.stage, config.data
  return Squares(
    stage.image_size,
    stage.lowres_size,
    stage.whole_size,
    data.crop,
    data.dct_scaling,
  )


def floats(pixels):
  """Returns uint8 [B, S, S, 3] as float32 in [-1, 1]."""
  scaled = np.empty(pixels.shape, np.float32)
  for one, picture in zip(scaled, pixels):  # Each stays in the cache.
    np.copyto(one, picture)
    one /= 127.5
    one -= 1
  return scaled
