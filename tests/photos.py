"""Pictures with what photographs have: shades, edges, detail at every scale."""

import io

import numpy as np
from PIL import Image


def photo(number, height, width):
  """Returns uint8 [height, width, 3]: 1/f noise behind shapes with edges."""
  rng = np.random.default_rng(number)
  rows = np.fft.fftfreq(height)[:, None, None]
  columns = np.fft.fftfreq(width)[None, :, None]
  radius = np.maximum(np.hypot(rows, columns), 1 / width)
  noise = np.fft.fft2(rng.normal(size=(height, width, 3)), axes=(0, 1))
  image = np.fft.ifft2(noise / radius, axes=(0, 1)).real
  image = image / image.std() * 40 + 128
  y, x = np.mgrid[:height, :width]
  for _ in range(12):
    top, left = rng.integers(height), rng.integers(width)
    radius = rng.integers(4, max(5, height // 6))
    inside = (y - top) ** 2 + (x - left) ** 2 < radius**2
    image[inside] = image[inside] / 2 + rng.integers(0, 128, 3)
  return image.clip(0, 255).astype(np.uint8)


def jpeg(image, **options):
  """Returns uint8 [H, W, 3] as the bytes of a JPEG."""
  file = io.BytesIO()
  options = {'quality': 90, **options}
  Image.fromarray(image).save(file, 'JPEG', **options)
  return file.getvalue()


def error(one, other):
  """The root of the mean square of a difference, in levels of 255."""
  one, other = (np.asarray(each, np.float64) for each in (one, other))
  return float(np.sqrt(np.mean((one - other) ** 2)))
