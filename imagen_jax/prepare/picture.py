"""Pictures as a build writes them: no larger than stages want, encoded."""

from collections.abc import Sequence
import io

import numpy as np
from PIL import Image

# Of JPEG, with colours at full resolution: at 64 pixels on a side, half of it
# is what a base stage would learn to paint.
_QUALITY = 95


def fit(image: np.ndarray, sizes: Sequence[int]) -> Image.Image:
  """Returns a picture with the largest shorter side of `sizes` that it fills.

  Antialiased by Hamming's kernel, which has no negative lobes: like the
  averages over areas that training makes of it, it does not overshoot.

  Args:
    image: uint8 [H, W, 3], with a shorter side of sizes[0] or more.
    sizes: pixels, ascending.
  """
  picture = Image.fromarray(image)
  short = min(picture.size)
  size = max(size for size in sizes if size <= short)
  if size == short:
    return picture
  scaled = tuple(max(size, round(side * size / short)) for side in picture.size)
  return picture.resize(scaled, Image.Resampling.HAMMING)


def encode(picture: Image.Image, form: str) -> bytes:
  """Returns a picture as a file's bytes; `form` is one of `options.FORMATS`."""
  out = io.BytesIO()
  if form == 'jpeg':
    picture.save(out, 'JPEG', quality=_QUALITY, subsampling=0)
  elif form == 'png':
    picture.save(out, 'PNG')
  else:
    # `exact` is of what lies under full transparency; there is none.
    picture.save(out, 'WEBP', lossless=True, quality=50)
  return out.getvalue()
