"""Encoded pictures and captions that others made: what is taken of them.

Both who packs a dataset and who reads one go by these limits, so that what is
packed can be read.
"""

from collections.abc import Collection
from collections.abc import Iterator
import contextlib
import dataclasses
import io
import math
import struct
import zlib

import numpy as np
from PIL import Image
from PIL import ImageOps

# A picture of more pixels, by its header, is not decoded: a few kilobytes can
# claim gigabytes.
MAX_PIXELS = 100_000_000

# Characters. Longer captions are pages, not captions, and no encoder reads
# them to the end.
MAX_CAPTION = 2000

# What readers decode; others are repacked.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'GIF', 'BMP')

# What Pillow's parsers raise on damaged bytes: found by damaging pictures.
_DAMAGE = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  IndexError,
  KeyError,
  TypeError,
  AttributeError,
  OverflowError,
  MemoryError,
  struct.error,
  zlib.error,
)


# Antialiased, without negative lobes that overshoot. Pillow's BOX takes whole
# pixels: at 1.5 to 1 now one and now two of them.
_FILTER = Image.Resampling.HAMMING


@dataclasses.dataclass(frozen=True)
class Picture:
  """A decoded picture.

  Attributes:
    image: in RGB, its sides 1/`reduction` of the picture's, rounded up.
    width: of the whole picture, in pixels.
    height: the same.
    reduction: 1, or 2, 4 or 8 of a JPEG that was decoded at that scale.
  """

  image: Image.Image
  width: int
  height: int
  reduction: int = 1

  def resized(self, box: tuple[float, ...], size: int) -> Image.Image:
    """Returns a part of it at `size` pixels on a side.

    Pixels at its edges take in a little of what lies beside it, as they would
    if all of the picture were resized.

    Args:
      box: left, top, right and bottom, in pixels of the whole picture.
      size: no more than the part has.
    """
    left, top, right, bottom = (each / self.reduction for each in box)
    # A sum of fractions may be beyond the edge by the last bit.
    right, bottom = min(right, self.image.width), min(bottom, self.image.height)
    return self.image.resize(
      (size, size), _FILTER, box=(left, top, right, bottom)
    )


class DamagedError(Exception):
  """Bytes that cannot be decoded as a picture."""


class TooLargeError(Exception):
  """A picture of more than `MAX_PIXELS`, by its header."""


class TooSmallError(Exception):
  """A picture with a shorter side than is of use, by its header."""


class TooLongError(Exception):
  """A picture that is too long for its width, by its header."""


@contextlib.contextmanager
def opened(
  encoded: bytes, *, formats: Collection[str] | None = None
) -> Iterator[Image.Image]:
  """Opens an encoded picture; its pixels are decoded.

  Args:
    encoded: the file's bytes.
    formats: names of Pillow's, that are accepted; None is all.

  Raises:
    DamagedError: where it is not a picture, or what is done with it within
      the context fails as on one that is damaged.
    TooLargeError: where it claims too many pixels.
  """
  with _header(encoded, formats, 1, math.inf) as image:
    image.load()
    yield image


@contextlib.contextmanager
def _header(encoded, formats, min_side, max_aspect):
  """Opens a picture, as `opened` and `decode` do, and decodes nothing of it."""
  try:
    with Image.open(io.BytesIO(encoded), formats=formats) as image:
      if image.width * image.height > MAX_PIXELS:
        raise TooLargeError
      if min(image.size) < min_side:
        raise TooSmallError
      if max(image.size) > max_aspect * min(image.size):
        raise TooLongError
      yield image
  except (Image.DecompressionBombError, Image.DecompressionBombWarning):
    raise TooLargeError from None
  except _DAMAGE as error:
    raise DamagedError from error


def decode(
  encoded: bytes,
  *,
  min_side: int = 1,
  max_aspect: float = math.inf,
  shorter: float | None = None,
) -> Picture:
  """Returns an encoded picture, decoded.

  Transparency is laid on white; a camera's orientation tag is obeyed; an
  animation gives its first frame. Sizes are read in the header, so that what is
  refused for its size costs nothing to decode.

  Args:
    encoded: the file's bytes, in one of `FORMATS`.
    min_side: least pixels of the shorter side.
    max_aspect: largest accepted longer side over shorter side.
    shorter: pixels of the shorter side that suffice. A JPEG is decoded at the
      smallest of 1/8, 1/4 and 1/2 that leaves so many, which leaves out much
      of the work; None decodes all of it.

  Raises:
    DamagedError: where it is not such a picture.
    TooLargeError: where it claims too many pixels.
    TooSmallError: where its shorter side is shorter.
    TooLongError: where its longer side is longer.
  """
  with _header(encoded, FORMATS, min_side, max_aspect) as image:
    width, height = image.size
    reduction = 1
    if shorter is not None and image.format == 'JPEG':
      reduction = _reduce(image, shorter)
    image.load()
    # Asking each picture for tags would cost more than some take to decode.
    if 'exif' in image.info:
      image = ImageOps.exif_transpose(image)
      width, height = (side * reduction for side in image.size)
    return Picture(_to_rgb(image), width, height, reduction)


def _reduce(image, shorter):
  """Has a JPEG decoded at a smaller scale; returns by what it is smaller."""
  width, height = image.size
  for reduction in (8, 4, 2):
    if min(width, height) < reduction * shorter:
      continue
    # Of sides that do not divide the last pixel stands for less than others,
    # and once the picture was turned it would not be the last.
    if 'exif' in image.info and (width % reduction or height % reduction):
      continue
    image.draft(None, (width // reduction, height // reduction))
    return reduction
  return 1


def resize(image: Image.Image, size: int) -> Image.Image:
  """Returns a square picture at `size` pixels on a side, no more than it has.

  Antialiased, and without the overshoot of kernels with negative lobes.
  """
  return image.resize((size, size), _FILTER)


def over_white(image: Image.Image) -> Image.Image:
  """Returns a picture in RGB, its transparency laid on white."""
  image = image.convert('RGBA')
  white = Image.new('RGBA', image.size, 'white')
  return Image.alpha_composite(white, image).convert('RGB')


def _to_rgb(image):
  if image.mode == 'RGB':
    return image
  if image.mode.startswith('I'):
    # 16-bit grey: Pillow's own conversion clips where it should scale.
    grey = np.asarray(image).astype(np.int64) >> 8
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
  if image.has_transparency_data:
    return over_white(image)
  return image.convert('RGB')
