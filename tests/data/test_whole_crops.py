"""Crops of pictures that are shrunk to a size first (`stage.whole_size`)."""

import collections
import dataclasses

from batches import assert_same
from batches import join
from batches import take
import numpy as np
from PIL import Image
import pytest

from imagen_jax.data import loader as loader_lib


@pytest.fixture(scope='module')
def crops(toy, tmp_path_factory):
  """Config of 8-pixel crops of 16-pixel wholes; path of its ten pictures.

  Of them three are too small, and one is of the whole's very size.
  """
  shapes = {2: (15, 40), 5: (40, 15), 7: (8, 8), 9: (16, 16)}
  examples = [
    toy.example(number, *shapes.get(number, (20 + number, 30)))
    for number in range(10)
  ]
  path = toy.write(
    tmp_path_factory.mktemp('data') / 'crops',
    {
      'train': examples,
      'heldout': examples[:5],
    },
  )
  sizes = {'image_size': 8, 'lowres_size': 4, 'whole_size': 16}
  return toy.config(('a', path), crop='random', max_bad_share=0.0, **sizes)


@pytest.fixture(scope='module')
def cut(crops):
  """The first batches of crops, as one host makes them."""
  return take(crops, 4)


def test_lowres_is_the_downsample_of_the_crop(cut):
  for batch in cut:
    assert batch['image'].shape == (8, 8, 8, 3)
    for image, lowres in zip(batch['image'], batch['lowres']):
      pixels = Image.fromarray(np.round((image + 1) * 127.5).astype(np.uint8))
      small = np.asarray(pixels.resize((4, 4), Image.Resampling.HAMMING))
      np.testing.assert_allclose(lowres, small / 127.5 - 1, atol=1e-6)


def place(toy, batch, row):
  """Where in its picture, shrunk to the whole's size, a crop lies."""
  number = int(batch['key'][row][1:])
  height, width = (16, 16) if number == 9 else (20 + number, 30)
  image = Image.fromarray(toy.picture(number, height, width))
  sides = [round(side * 16 / min(image.size)) for side in image.size]
  whole = image.resize(sides, Image.Resampling.HAMMING)
  whole = np.asarray(whole) / 127.5 - 1
  assert min(whole.shape[:2]) == 16
  crop = batch['image'][row]
  (at,) = [
    (top, left)
    for top in range(whole.shape[0] - 7)
    for left in range(whole.shape[1] - 7)
    if np.allclose(
      whole[top : top + 8, left : left + 8], crop, atol=1.01 / 127.5
    )
  ]
  return at


def test_crops_lie_anywhere_in_the_whole(toy, cut):
  places = [place(toy, batch, row) for batch in cut for row in range(8)]
  tops, lefts = map(set, zip(*places))
  assert len(tops) > 5 and len(lefts) > 5
  assert len(set(places)) > 20


def test_a_picture_comes_with_other_crops_in_other_slots(cut):
  seen = collections.defaultdict(list)
  for batch in cut:
    for key, image in zip(batch['key'], batch['image']):
      seen[key].append(image)
  for images in seen.values():
    assert len(images) > 1
    assert any((image != images[0]).any() for image in images[1:])


def test_crops_are_the_same_on_any_hosts_and_after_a_resume(crops, cut):
  shares = [take(crops, 4, rows=rows) for rows in (range(3), range(3, 8))]
  for batch, parts in zip(cut, zip(*shares)):
    assert_same(batch, join(parts))
  (third,) = take(crops, 1, start_step=2)
  assert_same(third, cut[2])


def test_central_crops_are_of_the_middle(toy, crops):
  data = dataclasses.replace(crops.data, crop='center')
  (batch,) = take(dataclasses.replace(crops, data=data), 1)
  for row in range(8):
    top, left = place(toy, batch, row)
    assert top in (4, 8) or int(batch['key'][row][1:]) == 9


def test_held_out_crops_are_the_same_whatever_the_seed(crops):
  other = dataclasses.replace(
    crops, train=dataclasses.replace(crops.train, seed=1)
  )
  (one,), (same,) = (
    take(config, 1, open_batches=loader_lib.eval_batches)
    for config in (crops, other)
  )
  assert_same(one, same)


def test_small_pictures_are_dropped_and_counted_apart(crops):
  """Three of ten, where not one bad record is accepted."""
  with loader_lib.training_batches(crops, rows=range(8), store=None) as batches:
    keys = {key for _ in range(20) for key in next(batches)['key']}
    counts = batches.tally.counts()['a']
  assert keys == {f'k{number}' for number in range(10)} - {'k2', 'k5', 'k7'}
  assert counts['bad'] == {}
  assert list(counts['dropped']) == ['shorter side under 16 pixels']
  share = counts['dropped']['shorter side under 16 pixels'] / counts['seen']
  assert 0.2 < share < 0.4


def test_a_task_of_small_pictures_alone_stops_at_once(toy, tmp_path):
  examples = [toy.example(number, 15, 15) for number in range(3)]
  path = toy.write(tmp_path / 'small', {'train': examples})
  sizes = {'lowres_size': 4, 'whole_size': 16}
  words = (
    "none of 3 records of 'train' can be used.*\n  a: shorter side under 16 "
    r'pixels: 3 of 3 \(100.0%\)$'
  )
  with pytest.raises(ValueError, match=words):
    take(toy.config(('a', path), **sizes), 1)
