r"""What pixels differ by where JPEGs are decoded at the scale that suffices.

    python benchmarks/dct_scaling.py PICTURES ... --size 64

Takes pictures or folders of them, writes each as a JPEG of `--quality`, and
prints the root of the mean square of differences, in levels of 255: of
`data.dct_scaling` at some values to decoding in full, and of that to the mean
over the area of a pixel. Pictures of a shorter side below `--least` are left
out, and so are those with transparency. The table of docs/data.md is of what
these packages carry:

    pip install --no-deps --target photographs \
        scikit-image scikit-learn matplotlib
"""

import argparse
import io
import pathlib

import numpy as np
from PIL import Image

from imagen_jax import pictures
from imagen_jax.data import squares as squares_lib

SCALINGS = (1.5, 2.0, 4.0)
ENDINGS = ('.jpg', '.jpeg', '.png', '.webp')
MIDDLE = np.array([0.5, 0.5])


def area(pixels, size):
  """Returns means over the areas that pixels cover, float64 [size, size, 3]."""
  for axis in (0, 1):
    pixels = np.moveaxis(np.asarray(pixels, np.float64), axis, 0)
    sums = np.concatenate([np.zeros_like(pixels[:1]), np.cumsum(pixels, 0)])
    at = np.arange(size + 1) * len(pixels) / size
    low = np.minimum(at.astype(int), len(pixels) - 1)
    part = (at - low)[:, None, None]
    sums = sums[low] * (1 - part) + sums[low + 1] * part
    pixels = np.moveaxis(np.diff(sums, axis=0) * size / len(pixels), 0, axis)
  return pixels


def error(one, other):
  """The root of the mean square of a difference."""
  one, other = (np.asarray(each, np.float64) for each in (one, other))
  return float(np.sqrt(np.mean((one - other) ** 2)))


def measure(image, size, quality):
  """Returns {what: error} of one picture in RGB."""
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=quality)
  squares = squares_lib.Squares(size)
  whole = pictures.decode(file.getvalue())
  in_full, _ = squares.cut(whole, MIDDLE)
  side = min(whole.width, whole.height)
  left, top = (whole.width - side) // 2, (whole.height - side) // 2
  square = whole.image.crop((left, top, left + side, top + side))
  found = {'area': error(in_full, area(square, size))}
  for scaling in SCALINGS:
    scaled = pictures.decode(file.getvalue(), shorter=scaling * size)
    found[scaling] = error(squares.cut(scaled, MIDDLE)[0], in_full)
  return found


def files(places):
  """Yields the pictures among files and in folders, sorted."""
  for place in places:
    for path in sorted(place.rglob('*')) if place.is_dir() else [place]:
      if path.suffix.lower() in ENDINGS:
        yield path


def main():
  """Prints a line of each picture, and the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('pictures', type=pathlib.Path, nargs='+')
  parser.add_argument('--size', type=int, default=64)
  parser.add_argument('--quality', type=int, default=90)
  parser.add_argument('--least', type=int, default=300)
  args = parser.parse_args()
  every = []
  for path in files(args.pictures):
    with Image.open(path) as image:
      if min(image.size) < args.least or image.mode not in ('RGB', 'L'):
        continue
      every.append(measure(image.convert('RGB'), args.size, args.quality))
    shown = ' '.join(
      f'{what} {value:.2f};' for what, value in every[-1].items()
    )
    print(path.name, *image.size, shown)
  if not every:
    raise SystemExit('no pictures that are large enough')
  print(f'{len(every)} pictures: mean, largest')
  for what in every[0]:
    values = [one[what] for one in every]
    print(f'{what!s:>5} {np.mean(values):5.1f} {max(values):5.1f}')


if __name__ == '__main__':
  main()
