import numpy as np
import pytest
from scipy import ndimage

from imagen_jax.synthetic import check_openmoji
from imagen_jax.synthetic import openmoji
from imagen_jax.synthetic import scores


def scenes(n, seed=0):
  rng = np.random.default_rng(seed)
  return [openmoji.sample_scene(rng, split='all') for _ in range(n)]


def damaged(image, rng, blur=0.0, noise=0.0):
  image = ndimage.gaussian_filter(image.astype(np.float32), (blur, blur, 0))
  image = image + rng.normal(0, 255 * noise, image.shape)
  return np.clip(np.round(image), 0, 255).astype(np.uint8)


def shares(some, size, **damage):
  rng = np.random.default_rng(1)
  return scores.summarise(
    [
      check_openmoji.score(
        damaged(openmoji.render(scene, size), rng, **damage),
        openmoji.caption(scene.statement),
      )
      for scene in some
    ]
  )['right']


def test_true_pictures_are_right():
  assert min(shares(scenes(250), 64).values()) >= 0.99


def test_noise_and_blur_are_borne():
  right = shares(scenes(80), 64, noise=0.03, blur=0.8)
  assert min(right.values()) >= 0.98


def test_true_pictures_of_32_pixels_are_right():
  assert min(shares(scenes(80), 32).values()) >= 0.97


def test_pictures_of_another_caption_are_at_chance():
  some = scenes(200)
  pictures = [openmoji.render(scene, 64) for scene in some]
  captions = [openmoji.caption(scene.statement) for scene in some]
  captions = captions[1:] + captions[:1]
  right = scores.summarise(list(map(check_openmoji.score, pictures, captions)))[
    'right'
  ]
  assert right['top1'] < 3 / 64 and right['top5'] < 10 / 64
  assert right['background'] < 2 / 8 and right['position'] < 2 / 5
  # More than half of the pictures show one object.
  assert right['count'] < 0.5


CAPTION = 'a bell on the left of a teal background'


@pytest.mark.parametrize(
  'shown, wrong',
  [
    (CAPTION, ()),
    ('a bell on the left of a purple background', ('background',)),
    ('a bell on a teal background', ('position',)),
    ('a bell at the top of a teal background', ('position',)),
    ('a bicycle on the left of a teal background', ('top1', 'top5')),
  ],
)
def test_only_what_is_wrong_is_wrong(shown, wrong):
  rng = np.random.default_rng(2)
  for _ in range(3):
    scene = openmoji.lay_out(openmoji.parse(shown), rng)
    right = check_openmoji.score(openmoji.render(scene, 64), CAPTION)
    truth = dict.fromkeys(check_openmoji.KEYS, True)
    assert right == truth | dict.fromkeys(wrong, False)


@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_count(count):
  rng = np.random.default_rng(3)
  for name in ('bicycle', 'lemon', 'sunflower'):
    statement = openmoji.Statement(name, count, 'white')
    image = openmoji.render(openmoji.lay_out(statement, rng), 64)
    seen = check_openmoji.read(image, openmoji.QUICK_OBJECTS)
    assert seen.count == count and seen.ranking[0] == name
    right = check_openmoji.score(image, 'three lemons on a white background')
    assert right['count'] == (count == 3) and right['position'] is None


def test_objects_that_touch_are_told_apart():
  rng = np.random.default_rng(4)
  statement = openmoji.Statement('lemon', 2, 'navy')
  (one, _) = openmoji.lay_out(statement, rng).placed
  half = one.extent / 2
  placed = tuple(
    openmoji.Placed(0.5 + side * half * 0.97, 0.5, one.extent)
    for side in (-1, 1)
  )
  image = openmoji.render(openmoji.Scene(statement, placed, 1.0), 64)
  assert check_openmoji.read(image, openmoji.QUICK_OBJECTS).count == 2


def test_any_object_is_found_among_many():
  names = openmoji.choose_objects(200)
  rng = np.random.default_rng(5)
  found = 0
  for name in names[64:104]:
    scene = openmoji.lay_out(openmoji.Statement(name, 1, 'teal'), rng)
    seen = check_openmoji.read(openmoji.render(scene, 64), names)
    found += name in seen.ranking[:5]
  assert found >= 38


def test_an_empty_picture_has_only_its_background_right():
  ground = np.round(openmoji.background('teal')).astype(np.uint8)
  blank = np.broadcast_to(ground, (64, 64, 3))
  right = check_openmoji.score(blank, CAPTION)
  assert right.pop('background')
  assert not any(right.values())


def test_a_ground_of_no_name_is_not_named():
  image = np.zeros((64, 64, 3), np.uint8)
  image[..., 1] = 255
  assert check_openmoji.read(image, ('bell',)).background == 'none'


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
    check_openmoji.read(image, ('bell',))


def test_the_stated_object_must_be_among_the_names():
  image = np.zeros((64, 64, 3), np.uint8)
  with pytest.raises(ValueError, match="names 'bell', which is not among"):
    check_openmoji.score(image, CAPTION, ('fox', 'owl'))
