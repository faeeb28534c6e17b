import numpy as np
import pytest
import tensorflow as tf

from imagen_jax.data import preprocess


def run(function, examples, **options):
  """Returns the examples that a preprocessor makes of `examples`."""

  def give():
    for number, example in enumerate(examples):
      yield {'seed': np.array([number, 0], np.int32), **example}

  spec = {
    'image': tf.TensorSpec([None, None, 3], tf.uint8),
    'captions': tf.TensorSpec([None], tf.string),
  }
  spec = {name: spec[name] for name in examples[0]}
  spec['seed'] = tf.TensorSpec([2], tf.int32)
  dataset = tf.data.Dataset.from_generator(give, output_signature=spec)
  return list(function(dataset, **options).as_numpy_iterator())


def ramp(height, width):
  """Returns a picture whose pixels are (row, column, 0)."""
  rows, columns = np.mgrid[:height, :width].astype(np.uint8)
  return np.stack([rows, columns, np.zeros_like(rows)], -1)


def test_captions_are_chosen_about_equally_and_by_seed():
  examples = [{'captions': [b'a', b'b', b'c']}] * 300
  found = [e['caption'] for e in run(preprocess.choose_caption, examples)]
  again = [e['caption'] for e in run(preprocess.choose_caption, examples)]
  assert found == again
  counts = [found.count(caption) for caption in (b'a', b'b', b'c')]
  assert sum(counts) == 300 and min(counts) > 70


def test_a_single_caption_is_chosen():
  (found,) = run(preprocess.choose_caption, [{'captions': [b'only']}])
  assert found['caption'] == b'only'
  assert 'captions' not in found


@pytest.mark.parametrize(
  ('height', 'width', 'top', 'left'),
  [(4, 4, 0, 0), (4, 10, 0, 3), (11, 4, 3, 0)],
)
def test_the_centre_square_is_cut(height, width, top, left):
  image = ramp(height, width)
  (found,) = run(preprocess.crop_square, [{'image': image}], crop='center')
  square = image[top : top + 4, left : left + 4]
  np.testing.assert_array_equal(found['image'], square)


@pytest.mark.parametrize('shape', [(4, 10), (10, 4)])
def test_random_squares_lie_anywhere_and_by_seed(shape):
  examples = [{'image': ramp(*shape)}] * 100
  found = run(preprocess.crop_square, examples, crop='random')
  again = run(preprocess.crop_square, examples, crop='random')
  corners = []
  for one, same in zip(found, again):
    np.testing.assert_array_equal(one['image'], same['image'])
    row, column = map(int, one['image'][0, 0, :2])
    corners.append(row + column)
    square = ramp(*shape)[row : row + 4, column : column + 4]
    np.testing.assert_array_equal(one['image'], square)
  assert set(corners) == set(range(7))


def test_the_crop_does_not_hang_on_the_caption():
  examples = [{'image': ramp(4, 5), 'captions': [b'0', b'1']}] * 200
  captioned = run(preprocess.choose_caption, examples)
  cropped = run(preprocess.crop_square, examples, crop='random')
  agree = np.mean(
    [
      int(a['caption']) == b['image'][0, 0, 1]
      for a, b in zip(captioned, cropped)
    ]
  )
  assert 0.35 < agree < 0.65


def test_pixels_are_averaged_and_scaled():
  image = np.zeros((4, 4, 3), np.uint8)
  image[:2, :2] = 255
  image[0, 2] = 102
  options = {'image_size': 2, 'lowres_size': None}
  (found,) = run(preprocess.resize, [{'image': image}], **options)
  expected = np.array([[1.0, 102 / 4 / 127.5 - 1], [-1.0, -1.0]], np.float32)
  assert found['image'].dtype == np.float32
  np.testing.assert_allclose(found['image'][..., 0], expected, atol=1e-6)
  assert 'lowres' not in found


def test_a_size_that_does_not_divide_is_averaged_too():
  image = ramp(9, 9)
  options = {'image_size': 4, 'lowres_size': None}
  (found,) = run(preprocess.resize, [{'image': image}], **options)
  # Each pixel covers 2.25 rows; a ramp's mean is the middle of what it covers.
  middle = (np.arange(4) + 0.5) * 2.25 - 0.5
  rows = (found['image'][:, 0, 0] + 1) * 127.5
  assert np.abs(rows - middle).max() < 0.12


def test_an_unchanged_size_keeps_every_pixel():
  image = ramp(8, 8)
  options = {'image_size': 8, 'lowres_size': None}
  (found,) = run(preprocess.resize, [{'image': image}], **options)
  back = np.round((found['image'] + 1) * 127.5)
  np.testing.assert_array_equal(back, image)


def test_lowres_is_what_the_stage_below_sees_of_the_same_square():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (13, 13, 3), np.uint8)
  (above,) = run(
    preprocess.resize, [{'image': image}], image_size=8, lowres_size=4
  )
  (below,) = run(
    preprocess.resize, [{'image': image}], image_size=4, lowres_size=None
  )
  np.testing.assert_array_equal(above['lowres'], below['image'])


@pytest.mark.parametrize(
  ('shape', 'expected'),
  [
    ((16, 16), (8, 8)),
    ((12, 20), (8, 13)),
    ((17, 9), (15, 8)),
    ((8, 9), (8, 9)),
  ],
)
def test_the_shorter_side_is_shrunk(shape, expected):
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  (found,) = run(preprocess.shrink_whole, [{'image': image}], size=8)
  assert found['image'].shape == (*expected, 3)
  assert found['image'].dtype == np.float32
  if shape == (16, 16):
    mean = image.reshape(8, 2, 8, 2, 3).mean((1, 3))
    np.testing.assert_allclose(found['image'], mean, rtol=1e-6)
  if shape == expected:
    np.testing.assert_array_equal(found['image'], image)


def test_the_shorter_side_is_met_whatever_it_was():
  """For a side that is no divisor, by rounding: never a pixel too few."""
  images = [{'image': ramp(side, side + 1)} for side in range(33, 200, 7)]
  for found in run(preprocess.shrink_whole, images, size=33):
    assert min(found['image'].shape[:2]) == 33


@pytest.mark.parametrize(('height', 'width'), [(4, 4), (5, 10), (11, 4)])
def test_a_square_is_cut_in_the_middle(height, width):
  image = ramp(height, width)
  options = {'size': 4, 'crop': 'center'}
  (found,) = run(preprocess.cut_square, [{'image': image}], **options)
  top, left = (height - 4) // 2, (width - 4) // 2
  square = image[top : top + 4, left : left + 4]
  np.testing.assert_array_equal(found['image'], square)


def test_squares_are_cut_anywhere_along_both_sides_and_by_seed():
  examples = [{'image': ramp(8, 8)}] * 400
  options = {'size': 4, 'crop': 'random'}
  found = run(preprocess.cut_square, examples, **options)
  again = run(preprocess.cut_square, examples, **options)
  corners = []
  for one, same in zip(found, again):
    np.testing.assert_array_equal(one['image'], same['image'])
    row, column = map(int, one['image'][0, 0, :2])
    square = ramp(8, 8)[row : row + 4, column : column + 4]
    np.testing.assert_array_equal(one['image'], square)
    corners.append((row, column))
  # All of them: neither side hangs on the other.
  assert len(set(corners)) == 5 * 5
  assert max(corners.count(corner) for corner in set(corners)) < 40
