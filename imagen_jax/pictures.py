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
from PIL import ExifTags
from PIL import Image

from imagen_jax import jpeg_scans

# A picture of more pixels, by its header, is not decoded: a few kilobytes can
# claim gigabytes.
MAX_PIXELS = 100_000_000

# Bytes that are held at once to decode one: a thread of the loader has so many
# at most. Enough for `MAX_PIXELS` of an ordinary JPEG or PNG.
MAX_BYTES = 2**29

# Scans of a JPEG: usual ones have 1 to 12. Each goes over all of the picture,
# and may take no more than a few bytes of the file, so that pixels times scans
# are bounded as well.
MAX_SCANS = 100
_MAX_SCANNED = 20 * MAX_PIXELS

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

# Bytes that Pillow holds of a pixel, where they are not 4.
_DEPTHS = {'1': 1, 'L': 1, 'P': 1, 'I;16': 2, 'I;16B': 2, 'I;16L': 2}

# And its decoder of WebP beside them: two canvases, and one as bytes.
_WEBP = 12

# How a picture is turned upright, by its orientation tag.
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}

# Pixels that are converted at once, where a whole picture would take copies.
_STRIP = 2**20

# Bytes of Pillow's blocks of pixels, and how many are kept for a thread. Its
# own are as large as a picture and given back to the system, which then has to
# clear each page of the next one: up to a tenth of the work at 256 pixels.
_BLOCK = 2**16
_BLOCKS_KEPT = 64


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
  """A picture of more than `MAX_PIXELS` or `MAX_BYTES`, by its header."""


class TooSmallError(Exception):
  """A picture with a shorter side than is of use, by its header."""


class TooLongError(Exception):
  """A picture that is too long for its width, by its header."""


def keep_memory(threads: int):
  """Has Pillow keep up to 4 MiB for each of `threads` that decode pictures."""
  Image.core.set_block_size(_BLOCK)
  Image.core.set_blocks_max(threads * _BLOCKS_KEPT)


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
    TooLargeError: where it claims too many pixels, or takes too many bytes.
  """
  with _header(encoded, formats, 1, math.inf) as image:
    _check_work(image, encoded, image.size)
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
    TooLargeError: where it claims too many pixels, or takes too many bytes.
    TooSmallError: where its shorter side is shorter.
    TooLongError: where its longer side is longer.
  """
  with _header(encoded, FORMATS, min_side, max_aspect) as image:
    width, height = image.size
    reduction = 1
    if shorter is not None and image.format == 'JPEG':
      reduction = _reduce(image, shorter)
    _check_work(image, encoded, (width, height))
    image.load()
    found = _to_rgb(image)
    # Asking each picture for tags would cost more than some take to decode.
    if 'exif' in image.info:
      found = _upright(image, found)
      width, height = (side * reduction for side in found.size)
    return Picture(found, width, height, reduction)


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

  def laid(strip):
    strip = strip.convert('RGBA')
    white = Image.new('RGBA', strip.size, 'white')
    return Image.alpha_composite(white, strip).convert('RGB')

  return _by_strips(image, laid, 'RGB')


def _by_strips(image, convert, mode):
  """Returns convert(image), made of parts: what they take is not whole."""
  rows = max(1, _STRIP // image.width)
  if rows >= image.height:
    return convert(image)
  whole = Image.new(mode, image.size)
  for top in range(0, image.height, rows):
    bottom = min(top + rows, image.height)
    strip = image.crop((0, top, image.width, bottom))
    whole.paste(convert(strip), (0, top))
  return whole


def _to_rgb(image):
  if image.mode == 'RGB':
    return image
  if image.mode.startswith('I'):
    return _by_strips(image, _deep_to_rgb, 'RGB')
  if image.has_transparency_data:
    return over_white(image)
  return image.convert('RGB')


def _deep_to_rgb(image):
  """16-bit grey: Pillow's own conversion clips where it should scale."""
  grey = np.asarray(image).astype(np.int64) >> 8
  return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert('RGB')


def _upright(image, converted):
  """Returns `converted` turned as the tags of `image` say."""
  exif = image.getexif()
  if converted is not image:
    # What it was converted from is not needed any longer, and as large.
    image.im = None
  turn = _TURNS.get(exif.get(ExifTags.Base.Orientation))
  return converted if turn is None else converted.transpose(turn)


def _check_work(image, encoded, sides):
  """Raises an error where decoding a picture would take too much.

  Args:
    image: opened, and not loaded.
    encoded: its bytes.
    sides: of it in full; those of `image` are of the scale that is decoded.

  Raises:
    DamagedError: of a JPEG that goes over its pixels again and again.
    TooLargeError: where it would take more than `MAX_BYTES`.
  """
  depth = _DEPTHS.get(image.mode, 4)
  if image.mode != 'RGB':
    depth += 4  # What it is converted to stands beside it.
  if 'exif' in image.info:
    depth = max(depth, 8)  # And so does what is turned.
  if image.format == 'WEBP':
    depth += _WEBP
  held = image.width * image.height * depth
  if image.format in ('JPEG', 'MPO'):
    held += _held_by_scans(image, encoded, math.prod(sides), held)
  if held > MAX_BYTES:
    raise TooLargeError


def _held_by_scans(image, encoded, pixels, others):
  """Returns bytes that a JPEG takes for coefficients, beside `others`."""
  # Most are so, and to search all of one costs as much as to resize it.
  if jpeg_scans.in_one_pass(encoded):
    return 0
  most = min(MAX_SCANS, _MAX_SCANNED // max(1, pixels))
  # All coefficients are held where there are several scans, of 2 bytes each.
  areas = [across * down for _, across, down, _ in image.layer]
  held = 2 * pixels * sum(areas) // max(1, *areas)
  # At least as many as there are, and found faster.
  scans = encoded.count(b'\xff\xda')
  if scans > most or (scans > 1 and others + held > MAX_BYTES):
    scans = jpeg_scans.count(encoded)
  if scans > most:
    raise DamagedError(f'{scans} scans')
  return held if scans > 1 or 'progressive' in image.info else 0
