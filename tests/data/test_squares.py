"""What is cut out of a picture, and at which sizes."""

import io

import numpy as np
import photos
from PIL import Image
import pytest

from imagen_jax import pictures
from imagen_jax.data import squares as squares_lib

MIDDLE = np.array([0.5, 0.5])

# Levels of 255, root of the mean square: of Pillow's filter against the mean
# over the area that a pixel covers, and of a JPEG decoded at a smaller scale
# against the whole. docs/data.md says so, too.
OF_AREA = 3.0
OF_SCALE = {1.5: 4.0, 2.0: 2.0}


def whole(image):
  """Returns uint8 [H, W, 3] as a picture."""
  return pictures.Picture(Image.fromarray(image), image.shape[1], len(image))


def ramp(height, width):
  """Returns a picture whose pixels are (row, column, 0)."""
  rows, columns = np.mgrid[:height, :width].astype(np.uint8)
  return np.stack([rows, columns, np.zeros_like(rows)], -1)


def area(image, size):
  """Returns the means over the areas that pixels cover, [size, size, 3]."""
  for axis in (0, 1):
    image = np.moveaxis(np.asarray(image, np.float64), axis, 0)
    sums = np.concatenate([np.zeros_like(image[:1]), np.cumsum(image, 0)])
    at = np.arange(size + 1) * len(image) / size
    low = np.minimum(at.astype(int), len(image) - 1)
    part = (at - low)[:, None, None]
    sums = sums[low] * (1 - part) + sums[low + 1] * part
    image = np.moveaxis(np.diff(sums, axis=0) * size / len(image), 0, axis)
  return image


@pytest.mark.parametrize(
  ('height', 'width', 'top', 'left'),
  [(4, 4, 0, 0), (4, 10, 0, 3), (11, 4, 3, 0)],
)
def test_the_centre_square_is_cut(height, width, top, left):
  image = ramp(height, width)
  found, lowres = squares_lib.Squares(4).cut(whole(image), MIDDLE)
  square = image[top : top + 4, left : left + 4]
  np.testing.assert_array_equal(found, square)
  assert found.dtype == np.uint8 and lowres is None


@pytest.mark.parametrize('shape', [(4, 10), (10, 4)])
def test_random_squares_lie_anywhere(shape):
  image = ramp(*shape)
  squares = squares_lib.Squares(4, crop='random')
  corners = set()
  for share in np.linspace(0, 1, 100, endpoint=False):
    found, _ = squares.cut(whole(image), np.array([share, share]))
    row, column = map(int, found[0, 0, :2])
    np.testing.assert_array_equal(
      found, image[row : row + 4, column : column + 4]
    )
    corners.add(row + column)
  assert corners == set(range(7))


def test_squares_of_a_whole_lie_anywhere_along_both_sides():
  image = ramp(8, 8)
  squares = squares_lib.Squares(4, whole_size=8, crop='random')
  corners = []
  for place in np.random.default_rng(0).random((400, 2)):
    found, _ = squares.cut(whole(image), place)
    row, column = map(int, found[0, 0, :2])
    np.testing.assert_array_equal(
      found, image[row : row + 4, column : column + 4]
    )
    corners.append((row, column))
  # All of them: neither side hangs on the other.
  assert len(set(corners)) == 5 * 5
  assert max(corners.count(corner) for corner in set(corners)) < 40


@pytest.mark.parametrize(
  'shape', [(64, 64), (64, 100), (130, 65), (97, 64), (201, 333)]
)
def test_a_square_of_a_whole_is_what_shrinking_all_of_it_gives(shape):
  """Though no more is shrunk than the square."""
  image = photos.photo(1, *shape)
  factor = 64 / min(shape)
  sides = [round(side * factor) for side in shape[::-1]]
  shrunk = np.asarray(
    Image.fromarray(image).resize(sides, Image.Resampling.HAMMING), int
  )
  assert min(shrunk.shape[:2]) == 64
  squares = squares_lib.Squares(16, whole_size=64, crop='random')
  for place in np.random.default_rng(0).random((20, 2)):
    found, _ = squares.cut(whole(image), place)
    left, top = (int(p * (s - 15)) for p, s in zip(place, sides))
    expected = shrunk[top : top + 16, left : left + 16]
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_an_unchanged_size_keeps_every_pixel():
  image = photos.photo(2, 40, 40)
  found, _ = squares_lib.Squares(40).cut(whole(image), MIDDLE)
  np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize('side', [128, 192, 150, 217, 1000])
def test_pixels_are_about_the_means_of_what_they_cover(side):
  image = photos.photo(3, side, side)
  found, _ = squares_lib.Squares(64).cut(whole(image), MIDDLE)
  assert photos.error(found, area(image, 64)) < OF_AREA
  # And not one of the pixels picked out.
  picked = image[:: side // 64, :: side // 64][:64, :64]
  assert photos.error(picked, area(image, 64)) > 2 * OF_AREA


def test_detail_that_is_too_fine_becomes_its_mean():
  image = np.zeros((256, 256, 3), np.uint8)
  image[::2] = 255
  found, _ = squares_lib.Squares(64).cut(whole(image), MIDDLE)
  assert np.abs(found.astype(int) - 127).max() <= 8


def test_edges_do_not_overshoot():
  image = np.full((200, 200, 3), 50, np.uint8)
  image[:, 77:] = 200
  found, _ = squares_lib.Squares(64).cut(whole(image), MIDDLE)
  assert found.min() == 50 and found.max() == 200


def test_lowres_is_what_the_stage_below_sees_of_the_same_square():
  picture = whole(photos.photo(4, 130, 200))
  place = np.array([0.3, 0.8])
  _, above = squares_lib.Squares(64, 16, crop='random').cut(picture, place)
  below, _ = squares_lib.Squares(16, crop='random').cut(picture, place)
  np.testing.assert_array_equal(above, below)


def test_lowres_of_a_square_of_a_whole_is_of_that_square():
  picture = whole(photos.photo(5, 300, 200))
  squares = squares_lib.Squares(64, 16, whole_size=128, crop='random')
  image, lowres = squares.cut(picture, np.array([0.9, 0.1]))
  assert lowres.shape == (16, 16, 3)
  assert photos.error(lowres, area(image, 16)) < OF_AREA


SHAPES = [(768, 1024), (601, 777), (1000, 513), (256, 256), (131, 1003)]


@pytest.mark.parametrize('scaling', OF_SCALE)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize(
  'form', [{}, {'progressive': True}, {'subsampling': 0}]
)
def test_a_scale_that_suffices_gives_almost_the_same(shape, scaling, form):
  encoded = photos.jpeg(photos.photo(6, *shape), **form)
  squares = squares_lib.Squares(32, 16, crop='random', dct_scaling=scaling)
  exact = squares_lib.Squares(32, 16, crop='random')
  picture = pictures.decode(encoded, shorter=squares.shorter)
  assert picture.reduction > 1
  assert min(picture.image.size) >= scaling * 32
  assert (picture.width, picture.height) == shape[::-1]
  full = pictures.decode(encoded, shorter=exact.shorter)
  assert full.reduction == 1
  for place in np.random.default_rng(0).random((5, 2)):
    for one, other in zip(
      squares.cut(picture, place), exact.cut(full, place), strict=True
    ):
      assert photos.error(one, other) < OF_SCALE[scaling]


def test_the_least_scale_that_suffices_is_taken():
  encoded = photos.jpeg(photos.photo(7, 128, 200))
  for shorter, reduction in (
    *((16, 8), (16.1, 4), (32, 4), (33, 2), (64, 2), (65, 1)),
    *((500, 1), (None, 1)),
  ):
    picture = pictures.decode(encoded, shorter=shorter)
    assert picture.reduction == reduction
    assert picture.image.size == (200 // reduction, 128 // reduction)


def test_a_jpeg_of_four_inks_is_scaled_too():
  image = Image.fromarray(photos.photo(8, 256, 256)).convert('CMYK')
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=95)
  squares, exact = (
    squares_lib.Squares(32, dct_scaling=2),
    squares_lib.Squares(32),
  )
  picture = pictures.decode(file.getvalue(), shorter=squares.shorter)
  assert picture.reduction == 4 and picture.image.mode == 'RGB'
  found, _ = squares.cut(picture, MIDDLE)
  wanted, _ = exact.cut(pictures.decode(file.getvalue()), MIDDLE)
  assert photos.error(found, wanted) < OF_SCALE[2.0]


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize(
  ('shape', 'reduction'), [((512, 768), 8), ((260, 388), 4), ((257, 389), 1)]
)
def test_what_a_camera_turned_is_cut_where_it_was(
  orientation, shape, reduction
):
  """At the scale at which no pixel stands for less than the others do."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  encoded = photos.jpeg(photos.photo(9, *shape), exif=exif)
  squares = squares_lib.Squares(32, crop='random', dct_scaling=2)
  exact = squares_lib.Squares(32, crop='random')
  picture = pictures.decode(encoded, shorter=squares.shorter)
  assert picture.reduction == reduction
  full = pictures.decode(encoded)
  assert (picture.width, picture.height) == full.image.size
  for place in ([0, 0], [0.99, 0.99]):
    found, _ = squares.cut(picture, np.array(place))
    wanted, _ = exact.cut(full, np.array(place))
    assert photos.error(found, wanted) < OF_SCALE[2.0]


def test_other_forms_are_decoded_in_full():
  file = io.BytesIO()
  Image.fromarray(photos.photo(10, 256, 256)).save(file, 'PNG')
  assert pictures.decode(file.getvalue(), shorter=16).reduction == 1


def test_sizes_are_refused_by_the_header_at_any_scale():
  encoded = photos.jpeg(photos.photo(11, 100, 250))
  with pytest.raises(pictures.TooSmallError):
    pictures.decode(encoded, min_side=101, shorter=8)
  with pytest.raises(pictures.TooLongError):
    pictures.decode(encoded, max_aspect=2.4, shorter=8)
  assert pictures.decode(encoded, min_side=100, shorter=8).reduction == 8


def test_a_cut_jpeg_is_damaged_at_any_scale():
  encoded = photos.jpeg(photos.photo(12, 256, 256))
  for shorter in (32, 64, None):
    with pytest.raises(pictures.DamagedError):
      pictures.decode(encoded[: len(encoded) // 2], shorter=shorter)
