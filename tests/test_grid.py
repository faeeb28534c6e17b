import numpy as np
import pytest

from imagen_jax import grid


def pictures(n, height=8, width=8):
  """Pictures of one grey each, all different."""
  greys = np.arange(n, dtype=np.uint8)[:, None, None, None] + 10
  return np.broadcast_to(greys, (n, height, width, 3))


def find(sheet, grey):
  """The box (left, top, right, bottom) of a picture on a sheet."""
  rows, columns = np.nonzero((np.asarray(sheet) == grey).all(-1))
  return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_pictures_lie_in_rows_and_are_enlarged():
  sheet = grid.grid(pictures(5), columns=3, scale=4)
  boxes = [find(sheet, 10 + index) for index in range(5)]
  for left, top, right, bottom in boxes:
    assert (right - left, bottom - top) == (32, 32)
  tops = [box[1] for box in boxes]
  assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4]
  lefts = [box[0] for box in boxes]
  assert lefts[0] < lefts[1] < lefts[2] and lefts[3] == lefts[0]


def test_pixels_are_enlarged_without_blur():
  image = np.zeros((1, 2, 2, 3), np.uint8)
  image[0, 0, 0] = image[0, 1, 1] = (250, 10, 20)
  sheet = np.asarray(grid.grid(image, scale=8))
  assert (sheet == (250, 10, 20)).all(-1).sum() == 2 * 64


def test_small_pictures_become_visible_and_large_ones_stay():
  left, _, right, _ = find(grid.grid(pictures(1, 16, 16)), 10)
  assert right - left == 112
  left, _, right, _ = find(grid.grid(pictures(1, 256, 256)), 10)
  assert right - left == 256


def test_default_is_about_a_square():
  sheet = grid.grid(pictures(9))
  assert abs(sheet.width - sheet.height) < 20


def test_text_makes_room_and_stays_in_its_column():
  plain = grid.grid(pictures(4), columns=2)
  text = 'a rather long caption that will not fit on a line ' + 'w' * 60
  labelled = grid.grid(pictures(4), [text, '', '', ''], 2)
  assert labelled.width == plain.width
  # The first row is higher, the second is not.
  more = find(labelled, 12)[1] - find(plain, 12)[1]
  assert more >= 3 * 16
  assert labelled.height - plain.height == more
  # Nothing is written under the second picture.
  left, _, right, bottom = find(labelled, 11)
  below = np.asarray(labelled)[bottom + 2 : bottom + more, left:right]
  assert (below == 255).all()
  left, _, right, bottom = find(labelled, 10)
  below = np.asarray(labelled)[bottom + 2 : bottom + more, left:right]
  assert (below < 128).any()


def test_titles_and_footer():
  sheet = grid.grid(
    pictures(4),
    columns=2,
    column_titles=['one', 'two'],
    row_titles=['first', 'second'],
    footer='drawn by nobody',
  )
  plain = grid.grid(pictures(4), columns=2)
  left, top, _, _ = find(sheet, 10)
  dark = (np.asarray(sheet) < 150).all(-1)
  assert dark[:top, left:].any()
  assert dark[top:, : left - 8].any()
  assert sheet.height > plain.height and sheet.width > plain.width
  assert dark[-20:].any() and not (np.asarray(plain)[-4:] < 150).any()


def test_lists_of_pictures_are_taken():
  assert grid.grid(list(pictures(2))).tobytes() == (
    grid.grid(pictures(2)).tobytes()
  )


@pytest.mark.parametrize(
  'images, options, message',
  [
    ([], {}, 'images is empty; accepted: one picture or more'),
    (np.zeros((1, 4, 4, 3)), {}, r'images holds float64 \[4, 4, 3\]'),
    (np.zeros((1, 4, 4), np.uint8), {}, r'images holds uint8 \[4, 4\]'),
    (
      [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)],
      {},
      r'\[4, 4, 3\] and \[5, 4, 3\]; accepted: one size',
    ),
    (pictures(2), {'labels': ['a']}, 'labels has 1 texts; accepted: 2'),
    (pictures(2), {'columns': -1}, 'columns is -1; accepted: 1 or more'),
    (pictures(2), {'scale': -1}, 'scale is -1; accepted: 1 or more'),
    (
      pictures(4),
      {'columns': 2, 'column_titles': ['a']},
      'column_titles has 1 texts; accepted: 2',
    ),
    (
      pictures(4),
      {'columns': 2, 'row_titles': ['a']},
      'row_titles has 1 texts; accepted: 2',
    ),
  ],
)
def test_what_does_not_fit_is_refused(images, options, message):
  with pytest.raises(ValueError, match=message):
    grid.grid(images, **options)
