"""Pictures as a build writes them."""

import io

import numpy as np
from PIL import Image
import pytest

from imagen_jax.prepare import picture


def noise(height, width):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
  'shape, size',
  [
    ((300, 200), (64, 96)),
    ((127, 64), (64, 127)),
    ((256, 1000), (1000, 256)),
    ((2000, 1500), (256, 341)),
    ((255, 700), (176, 64)),
  ],
)
def test_the_shorter_side_becomes_the_largest_size_that_it_reaches(shape, size):
  fitted = picture.fit(noise(*shape), (64, 256))
  assert fitted.size == size
  assert min(fitted.size) <= min(shape)


def test_what_fits_already_stays_as_it_is():
  image = noise(64, 100)
  np.testing.assert_array_equal(picture.fit(image, (32, 64)), image)


def test_shrinking_averages_and_does_not_overshoot():
  y, x = np.mgrid[:128, :128]
  fine = ((x + y) % 2 * 255).astype(np.uint8)
  grey = np.asarray(picture.fit(np.stack([fine] * 3, -1), (16,)))
  assert abs(grey.astype(int) - 127).max() <= 2
  edge = np.where(x < 61, 40, 200).astype(np.uint8)
  shrunk = np.asarray(picture.fit(np.stack([edge] * 3, -1), (32,)))
  assert (shrunk.min(), shrunk.max()) == (40, 200)


@pytest.mark.parametrize('form', ['png', 'webp'])
def test_these_lose_nothing(form):
  image = noise(20, 31)
  data = picture.encode(Image.fromarray(image), form)
  read = Image.open(io.BytesIO(data))
  assert read.format == form.upper()
  np.testing.assert_array_equal(read.convert('RGB'), image)


def test_jpeg_keeps_colours_at_full_resolution():
  image = np.zeros((32, 32, 3), np.uint8)
  image[::2, :, 0], image[1::2, :, 2] = 200, 200
  read = Image.open(io.BytesIO(picture.encode(Image.fromarray(image), 'jpeg')))
  assert read.format == 'JPEG'
  assert abs(np.asarray(read).astype(int) - image).max() < 20
