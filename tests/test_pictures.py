"""Pictures of others: decoded alike, or refused for one of a few reasons."""

import io
import warnings

import numpy as np
from PIL import Image
import pytest

from imagen_jax import pictures


def noise(height, width):
  rng = np.random.default_rng(3)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def save(image, form='PNG', **options):
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


def pixels(encoded, **options):
  """Returns a picture, decoded, as uint8 [H, W, 3]."""
  return np.asarray(pictures.decode(encoded, **options).image)


def claimed(width, height):
  """A BMP of 8 x 8 whose header says otherwise."""
  file = bytearray(save(Image.new('1', (8, 8)), 'BMP'))
  file[18:26] = np.array([width, height], '<i4').tobytes()
  return bytes(file)


def test_a_picture_of_too_many_pixels_is_not_decoded():
  # A header that claims 20,000 x 20,000, and one that Pillow itself refuses.
  for side in (20_000, 2_000_000):
    with pytest.raises(pictures.TooLargeError):
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pictures.decode(claimed(side, side))


@pytest.mark.parametrize('form', ['PNG', 'WEBP', 'BMP'])
def test_formats_decode_to_the_same_pixels(form):
  image = noise(5, 9)
  options = {'lossless': True} if form == 'WEBP' else {}
  found = pixels(save(Image.fromarray(image), form, **options))
  np.testing.assert_array_equal(found, image)


def test_other_formats_are_opened_to_be_repacked_alone():
  tiff = save(Image.fromarray(noise(5, 9)), 'TIFF')
  with pictures.opened(tiff) as image:
    assert image.format == 'TIFF'
  with pytest.raises(pictures.DamagedError):
    pictures.decode(tiff)


def test_transparency_is_laid_on_white():
  image = Image.new('RGBA', (2, 1), (255, 0, 0, 255))
  image.putpixel((1, 0), (0, 0, 0, 0))
  found = pixels(save(image))
  np.testing.assert_array_equal(found, [[[255, 0, 0], [255, 255, 255]]])


def test_grey_and_palette_become_rgb():
  grey = pixels(save(Image.new('L', (1, 1), 100)))
  np.testing.assert_array_equal(grey, [[[100] * 3]])
  deep = Image.fromarray(np.array([[100 * 257]], np.uint16))
  np.testing.assert_array_equal(pixels(save(deep)), [[[100] * 3]])
  palette = Image.new('RGB', (1, 1), (1, 2, 3)).convert('P')
  assert pixels(save(palette)).shape == (1, 1, 3)


def test_cmyk_becomes_rgb():
  """As Adobe's programs write it: with inverted inks, which a marker tells."""
  white = Image.new('RGB', (16, 16), 'white').convert('CMYK')
  red = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
  for image, wanted in ((white, [255, 255, 255]), (red, [255, 0, 0])):
    encoded = save(image, 'JPEG', quality=100)
    assert b'Adobe' in encoded
    found = pixels(encoded).astype(int)
    assert np.abs(found - wanted).max() <= 3


@pytest.mark.parametrize('form', ['GIF', 'WEBP', 'PNG'])
def test_of_an_animation_the_first_frame_is_taken(form):
  frames = [Image.new('RGB', (8, 8), color) for color in ('red', 'blue')]
  options = {'lossless': True} if form == 'WEBP' else {}
  encoded = save(
    frames[0], form, save_all=True, append_images=frames[1:], **options
  )
  found = pixels(encoded)
  np.testing.assert_array_equal(found, np.asarray(frames[0]))


def test_a_long_picture_is_refused_by_its_header():
  encoded = save(Image.fromarray(noise(10, 25)))
  assert pixels(encoded, max_aspect=2.5).shape == (10, 25, 3)
  with pytest.raises(pictures.TooLongError):
    pictures.decode(encoded[:45], max_aspect=2.4)


def test_a_cameras_orientation_is_obeyed():
  image = noise(16, 8)
  exif = Image.Exif()
  exif[0x0112] = 6  # The top of the picture is at the right of the file.
  found = pixels(save(Image.fromarray(image), exif=exif))
  np.testing.assert_array_equal(found, np.rot90(image, -1))


@pytest.mark.filterwarnings('ignore::UserWarning:PIL')
def test_random_damage_has_one_name():
  rng = np.random.default_rng(1)
  image = Image.fromarray(noise(20, 24))
  good = [save(image, form) for form in pictures.FORMATS]
  outcomes = set()
  for _ in range(300):
    broken = bytearray(good[rng.integers(len(good))])
    for place in rng.integers(len(broken), size=rng.integers(1, 20)):
      broken[place] = rng.integers(256)
    try:
      pictures.decode(bytes(broken))
      outcomes.add('decoded')
    except (pictures.DamagedError, pictures.TooLargeError) as error:
      outcomes.add(type(error))
  assert {'decoded', pictures.DamagedError} <= outcomes
