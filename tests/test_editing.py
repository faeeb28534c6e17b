"""Pictures to start from: what is cut out of them, and what is refused."""

import numpy as np
from PIL import Image
import pytest

from imagen_jax import editing


def save(path, pixels):
  Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
  return str(path)


@pytest.fixture
def picture(tmp_path):
  """A wide picture: grey, its middle square red above and blue below."""
  pixels = np.full((8, 12, 3), 128)
  pixels[:4, 2:10] = (255, 0, 0)
  pixels[4:, 2:10] = (0, 0, 255)
  return save(tmp_path / 'picture.png', pixels)


def test_the_middle_square_at_the_stages_size(picture):
  found = editing.edit_of(*editing.open_pictures(picture, None), 4)
  assert found.image.shape == (4, 4, 3) and found.mask is None
  np.testing.assert_allclose(found.image[0], [[1, -1, -1]] * 4, atol=0.2)
  np.testing.assert_allclose(found.image[3], [[-1, -1, 1]] * 4, atol=0.2)


def test_a_pixel_is_painted_anew_where_any_of_it_is_white(picture, tmp_path):
  grey = np.zeros((8, 12))
  grey[0, 2] = 255
  grey[5, 6] = 127
  mask = save(tmp_path / 'mask.png', grey)
  found = editing.edit_of(*editing.open_pictures(picture, mask), 4)
  expected = np.zeros((4, 4, 1))
  expected[0, 0] = 1
  np.testing.assert_array_equal(found.mask, expected)
  larger = editing.edit_of(*editing.open_pictures(picture, mask), 16)
  assert larger.mask.sum() == 4 and larger.mask[:2, :2].all()


@pytest.mark.parametrize(
  'image, mask, words',
  [
    ('none.png', None, "--init-image is '.*none.png'; accepted: a file with"),
    ('text.png', None, '--init-image .*text.png cannot be read'),
    ('picture.png', 'none.png', "--mask is '.*none.png'; accepted: a file"),
    ('picture.png', 'small.png', 'has 4x4 pixels; accepted: .* has, 12x8'),
    ('picture.png', 'black.png', 'is black all over; accepted: white where'),
  ],
)
def test_refusals(image, mask, words, picture, tmp_path):
  (tmp_path / 'text.png').write_text('not a picture')
  save(tmp_path / 'small.png', np.full((4, 4), 255))
  save(tmp_path / 'black.png', np.zeros((8, 12)))
  places = [str(tmp_path / name) if name else None for name in (image, mask)]
  with pytest.raises(ValueError, match=words):
    editing.open_pictures(*places)
