"""Encoded pictures and captions that others made: what is taken of them.

Both who packs a dataset and who reads one go by these limits, so that what is
packed can be read.
"""

from collections.abc import Collection
from collections.abc import Iterator
import contextlib
import io
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


class DamagedError(Exception):
  """Bytes that cannot be decoded as a picture."""


class TooLargeError(Exception):
  """A picture of more than `MAX_PIXELS`, by its header."""


class TooSmallError(Exception):
  """A picture with a shorter side than is of use, by its header."""


@contextlib.contextmanager
def opened(
  encoded: bytes,
  *,
  formats: Collection[str] | None = None,
  min_side: int = 1,
) -> Iterator[Image.Image]:
  """Opens an encoded picture; its pixels are decoded.

  Sizes are read in the header, so that what is refused for its size costs
  nothing to decode.

  Args:
    encoded: the file's bytes.
    formats: names of Pillow's, that are accepted; None is all.
    min_side: least pixels of the shorter side.

  Raises:
    DamagedError: where it is not a picture, or what is done with it within
      the context fails as on one that is damaged.
    TooLargeError: where it claims too many pixels.
    TooSmallError: where its shorter side is shorter.
  """
  try:
    with Image.open(io.BytesIO(encoded), formats=formats) as image:
      if image.width * image.height > MAX_PIXELS:
        raise TooLargeError
      if min(image.size) < min_side:
        raise TooSmallError
      image.load()
      yield image
  except (Image.DecompressionBombError, Image.DecompressionBombWarning):
    raise TooLargeError from None
  except _DAMAGE as error:
    raise DamagedError from error


def decode(encoded: bytes, *, min_side: int = 1) -> np.ndarray:
  """Returns an encoded picture as uint8 [H, W, 3].

  Transparency is laid on white; a camera's orientation tag is obeyed; an
  animation gives its first frame.

  Args:
    encoded: the file's bytes, in one of `FORMATS`.
    min_side: least pixels of the shorter side.

  Raises:
    DamagedError: where it is not such a picture.
    TooLargeError: where it claims too many pixels.
    TooSmallError: where its shorter side is shorter.
  """
  with opened(encoded, formats=FORMATS, min_side=min_side) as image:
    # Asking each picture for tags would cost more than some take to decode.
    if 'exif' in image.info:
      image = ImageOps.exif_transpose(image)
    return np.asarray(_to_rgb(image))


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
