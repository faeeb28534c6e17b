"""A labelled grid of pictures, as one image to look at."""

import collections.abc

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

_PAPER = 'white'
_INK = (32, 32, 32)
_FAINT = (110, 110, 110)
_FRAME = (205, 205, 205)
_GAP = 8  # Pixels between cells, and around all.
_FONT_SIZE = 13
_LEADING = 16  # From one line of text to the next.
_MIN_CELL = 112  # Small pictures are enlarged to about this, to be seen.


def grid(
  images: collections.abc.Sequence[np.ndarray] | np.ndarray,
  labels: collections.abc.Sequence[str] | None = None,
  columns: int | None = None,
  *,
  column_titles: collections.abc.Sequence[str] | None = None,
  row_titles: collections.abc.Sequence[str] | None = None,
  scale: int | None = None,
  footer: str | None = None,
) -> Image.Image:
  """Returns pictures in rows from the top left, each above its label.

  Args:
    images: uint8 [N, H, W, 3], all of one size.
    labels: a text under each picture, wrapped to its width; empty for none.
    columns: pictures in a row; by default as many as make a square.
    column_titles: a text above each column.
    row_titles: a text left of each row, wrapped.
    scale: whole factor by which pictures are enlarged, pixel by pixel. By
      default small ones are made about 112 pixels wide.
    footer: a text under all; where drawings are shown, their attribution.

  Raises:
    ValueError: where there are no images, they are not uint8 [H, W, 3] of one
      size, or the number of labels or titles does not fit.
  """
  images = _checked(images)
  number, height, width = len(images), *images[0].shape[:2]
  columns = columns or int(np.ceil(number**0.5))
  if columns < 1:
    raise ValueError(f'columns is {columns}; accepted: 1 or more')
  if scale is not None and scale < 1:
    raise ValueError(f'scale is {scale}; accepted: 1 or more')
  rows = -(-number // columns)
  for name, texts, wanted in (
    ('labels', labels, number),
    ('column_titles', column_titles, columns),
    ('row_titles', row_titles, rows),
  ):
    if texts is not None and len(texts) != wanted:
      raise ValueError(f'{name} has {len(texts)} texts; accepted: {wanted}')

  scale = scale or max(1, round(_MIN_CELL / width))
  cell_width, cell_height = width * scale, height * scale
  texts = [_wrap(text, cell_width) for text in labels or [''] * number]
  titles = [_wrap(text, cell_width) for text in column_titles or ()]
  sides = [_wrap(text, _MIN_CELL) for text in row_titles or ()]

  left = _GAP + max((_text_width(t) + _GAP for t in sides), default=0)
  top = _GAP + _text_height(titles)
  # A row is as high as its longest label, or its title where that is longer.
  row_heights = []
  for row in range(rows):
    below = _text_height(texts[row * columns : (row + 1) * columns])
    beside = _text_height(sides[row : row + 1])
    row_heights.append(max(cell_height + below, beside) + _GAP)
  total_width = left + columns * (cell_width + _GAP)
  foot = _wrap(footer or '', total_width - 2 * _GAP)
  total_height = top + sum(row_heights) + _text_height([foot])

  sheet = Image.new('RGB', (total_width, total_height), _PAPER)
  draw = ImageDraw.Draw(sheet)
  for column, lines in enumerate(titles):
    x = left + column * (cell_width + _GAP)
    _write(draw, lines, x, top - _text_height([lines]), _INK)
  y = top
  for row in range(rows):
    if sides:
      _write(draw, sides[row], _GAP, y, _INK)
    for column in range(columns):
      index = row * columns + column
      if index < number:
        x = left + column * (cell_width + _GAP)
        picture = Image.fromarray(images[index])
        size = (cell_width, cell_height)
        sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (x, y))
        # Without a frame, white pictures end nowhere on white paper.
        frame = (x - 1, y - 1, x + cell_width, y + cell_height)
        draw.rectangle(frame, outline=_FRAME)
        _write(draw, texts[index], x, y + cell_height, _INK)
    y += row_heights[row]
  _write(draw, foot, _GAP, y, _FAINT)
  return sheet


def _checked(images):
  images = [np.asarray(image) for image in images]
  if not images:
    raise ValueError('images is empty; accepted: one picture or more')
  for image in images:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
      raise ValueError(
        f'images holds {image.dtype} {list(image.shape)}; accepted: uint8 '
        '[H, W, 3]'
      )
    if image.shape != images[0].shape:
      raise ValueError(
        f'images holds pictures of {list(images[0].shape)} and '
        f'{list(image.shape)}; accepted: one size'
      )
  return images


def _font():
  return ImageFont.load_default(_FONT_SIZE)


def _wrap(text, width):
  """Returns `text` as lines at most `width` pixels wide."""
  font = _font()
  lines = []
  for paragraph in text.splitlines():
    line = ''
    for word in _short_words(paragraph, width, font):
      longer = f'{line} {word}' if line else word
      if line and font.getlength(longer) > width:
        lines.append(line)
        longer = word
      line = longer
    lines.append(line)
  return lines


def _short_words(paragraph, width, font):
  """Yields the words of `paragraph`, those wider than `width` in parts."""
  for word in paragraph.split():
    while font.getlength(word) > width and len(word) > 1:
      cut = len(word) - 1
      while cut > 1 and font.getlength(word[:cut]) > width:
        cut -= 1
      yield word[:cut]
      word = word[cut:]
    yield word


def _text_width(lines):
  return int(max(map(_font().getlength, lines), default=0)) + 1


def _text_height(texts):
  """Height of the tallest of several wrapped texts, with a gap if any."""
  lines = max(map(len, texts), default=0)
  return lines * _LEADING + _GAP // 2 if lines else 0


def _write(draw, lines, x, y, colour):
  for number, line in enumerate(lines):
    position = (x, y + number * _LEADING + 2)
    draw.text(position, line, fill=colour, font=_font())
