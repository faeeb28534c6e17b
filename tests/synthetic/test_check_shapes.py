import numpy as np
import pytest
from scipy import ndimage

from imagen_jax.synthetic import check_shapes
from imagen_jax.synthetic import scores
from imagen_jax.synthetic import shapes


def scenes(n, seed=0):
  rng = np.random.default_rng(seed)
  return [shapes.sample_scene(rng, 'all') for _ in range(n)]


def damaged(image, rng, blur=0.0, noise=0.0):
  image = ndimage.gaussian_filter(image.astype(np.float32), (blur, blur, 0))
  image = image + rng.normal(0, 255 * noise, image.shape)
  return np.clip(np.round(image), 0, 255).astype(np.uint8)


def shares(some, size, **damage):
  rng = np.random.default_rng(1)
  return scores.summarise(
    [
      check_shapes.score(
        damaged(shapes.render(scene, size), rng, **damage),
        shapes.caption(scene.statement),
      )
      for scene in some
    ]
  )['right']


def test_true_pictures_are_right():
  right = shares(scenes(1000), 64)
  assert min(right.values()) >= 0.995


@pytest.mark.parametrize('blur', [0.0, 0.6, 1.0])
def test_noise_and_blur_are_borne(blur):
  right = shares(scenes(100), 64, noise=0.05, blur=blur)
  assert min(right.values()) >= 0.99


def test_true_pictures_of_32_pixels_are_right():
  assert min(shares(scenes(100), 32, noise=0.03).values()) >= 0.99


def test_pictures_of_16_pixels_say_all_but_the_shape():
  right = shares(scenes(100), 16)
  assert right.pop('shape') >= 0.8
  right.pop('all')
  assert min(right.values()) >= 0.98


def test_pictures_of_another_caption_are_at_chance():
  some = scenes(300)
  pictures = [shapes.render(scene, 64) for scene in some]
  captions = [shapes.caption(scene.statement) for scene in some]
  captions = captions[1:] + captions[:1]
  right = scores.summarise(list(map(check_shapes.score, pictures, captions)))[
    'right'
  ]
  assert right['all'] < 0.02
  # One colour of six, or two: each less likely than one in six.
  assert right['colour'] < 1 / 6 and right['position'] < 1 / 4
  # A quarter for one thing, half for its size; 1 of 2 objects is common.
  assert right['shape'] < 1 / 4 and right['size'] < 1 / 2
  assert right['count'] < 1 / 2


CAPTION = 'a small red triangle to the left of a large blue circle'
TRUE = dict.fromkeys(check_shapes.KEYS, True)


@pytest.mark.parametrize(
  'shown, wrong',
  [
    (CAPTION, ()),
    ('a large blue circle to the right of a small red triangle', ()),
    ('a large blue circle to the left of a small red triangle', ('position',)),
    ('a small red triangle above a large blue circle', ('position',)),
    (CAPTION.replace('red', 'green'), ('colour',)),
    (CAPTION.replace('triangle', 'square'), ('shape',)),
    (CAPTION.replace('small', 'large'), ('size',)),
    # Colour goes before shape: the two shapes have changed places.
    ('a small red circle to the left of a large blue triangle', ('shape',)),
    # One of the two is not there at all.
    ('a small red triangle', check_shapes.KEYS),
  ],
)
def test_only_what_is_wrong_is_wrong(shown, wrong):
  rng = np.random.default_rng(2)
  for _ in range(5):
    scene = shapes.lay_out(shapes.parse(shown), rng)
    right = check_shapes.score(shapes.render(scene, 64), CAPTION)
    assert right == TRUE | dict.fromkeys(wrong, False)


def test_one_object_cannot_stand_for_two_things():
  rng = np.random.default_rng(2)
  scene = shapes.lay_out(shapes.parse('two small red triangles'), rng)
  right = check_shapes.score(shapes.render(scene, 64), CAPTION)
  assert right['count']
  assert not (right['colour'] or right['shape'] or right['size'])


def test_count():
  rng = np.random.default_rng(3)
  for n, word in ((2, 'two'), (3, 'three'), (4, 'four')):
    scene = shapes.lay_out(shapes.parse(f'{word} large black crosses'), rng)
    right = check_shapes.score(
      shapes.render(scene, 64), 'three large black crosses'
    )
    assert right['count'] == (n == 3)
    assert right['colour'] and right['shape'] and right['size']
    assert right['position'] is None


def test_an_empty_picture_has_nothing_right():
  blank = np.full((32, 32, 3), 245, np.uint8)
  assert check_shapes.read(blank) == []
  right = check_shapes.score(blank, CAPTION)
  assert right == dict.fromkeys(check_shapes.KEYS, False)


def test_specks_are_no_objects():
  image = np.full((64, 64, 3), 245, np.uint8)
  image[10:13, 10:13] = shapes.COLOURS['red']
  assert check_shapes.read(image) == []


def test_what_is_no_shape_is_not_called_one():
  image = np.full((64, 64, 3), 245, np.uint8)
  image[20:26, 10:50] = shapes.COLOURS['red']  # A bar.
  (seen,) = check_shapes.read(image)
  assert (seen.thing.colour, seen.thing.shape) == ('red', 'none')
  assert seen.overlap < 0.7


def test_read_measures():
  rng = np.random.default_rng(4)
  scene = shapes.lay_out(shapes.parse('a large green triangle'), rng)
  (seen,) = check_shapes.read(shapes.render(scene, 64))
  (placed,) = scene.placed
  assert seen.thing == placed.thing
  read = (seen.x, seen.y, seen.diameter)
  assert read == pytest.approx((placed.x, placed.y, placed.diameter), abs=0.02)


@pytest.mark.parametrize(
  'image, got',
  [
    (np.zeros((64, 64, 3), np.float32), 'float32'),
    (np.zeros((64, 32, 3), np.uint8), r'\[64, 32, 3\]'),
    (np.zeros((8, 8, 3), np.uint8), r'\[8, 8, 3\]'),
    (np.zeros((64, 64), np.uint8), r'\[64, 64\]'),
  ],
)
def test_other_images_are_refused(image, got):
  with pytest.raises(ValueError, match=f'image is .*{got}.*; accepted: uint8'):
    check_shapes.read(image)
