import collections

import numpy as np
import pytest

from imagen_jax.synthetic import drawings
from imagen_jax.synthetic import openmoji


def everything(split):
  return [s for some in openmoji.statements(split).values() for s in some]


def scenes(n, split='all', seed=0):
  rng = np.random.default_rng(seed)
  return [openmoji.sample_scene(rng, split=split) for _ in range(n)]


def test_quick_objects():
  assert len(set(openmoji.QUICK_OBJECTS)) == 64
  assert set(openmoji.QUICK_OBJECTS) <= set(drawings.objects())


def test_choose_objects_begins_with_the_quick_ones():
  assert openmoji.choose_objects(3) == openmoji.QUICK_OBJECTS[:3]
  chosen = openmoji.choose_objects(500)
  assert chosen[:64] == openmoji.QUICK_OBJECTS
  assert len(set(chosen)) == 500 and set(chosen) <= set(drawings.objects())


@pytest.mark.parametrize('number', [0, 100_000])
def test_other_numbers_of_objects_are_refused(number):
  with pytest.raises(ValueError, match=f'num_objects is {number}; accepted'):
    openmoji.choose_objects(number)


@pytest.mark.parametrize(
  'statement, text',
  [
    (('lobster', 2, 'teal'), 'two lobsters on a teal background'),
    (('owl', 1, 'orange'), 'an owl on an orange background'),
    (('fox', 4, 'navy'), 'four foxes on a navy background'),
    (('bell', 1, 'pink', 'left'), 'a bell on the left of a pink background'),
    (
      ('star', 1, 'grey', 'bottom'),
      'a star at the bottom of a grey background',
    ),
  ],
)
def test_caption(statement, text):
  statement = openmoji.Statement(*statement)
  assert openmoji.caption(statement) == text
  assert openmoji.parse(text) == statement


def test_parse_inverts_caption():
  captions = [openmoji.caption(s) for s in everything('all')]
  assert len(set(captions)) == len(captions) == 4096
  assert [openmoji.parse(c) for c in captions] == everything('all')


def test_parse_inverts_caption_for_every_object():
  for name in drawings.objects():
    for count in (1, 3):
      statement = openmoji.Statement(name, count, 'white')
      assert openmoji.parse(openmoji.caption(statement)) == statement


@pytest.mark.parametrize(
  'text',
  [
    '',
    'a lobster',
    'two lobster on a teal background',
    'a griffin on a teal background',
    'a lobster on an teal background',
    'two lobsters on the left of a teal background',
    'a lobster on a beige background',
    'five lobsters on a teal background',
  ],
)
def test_other_captions_are_refused(text):
  with pytest.raises(ValueError, match='is not of the openmoji grammar'):
    openmoji.parse(text)


def test_splits_share_nothing_and_make_the_whole():
  train, heldout = map(set, map(everything, ('train', 'heldout')))
  assert not train & heldout
  assert train | heldout == set(everything('all'))
  assert 0.12 < len(heldout) / 4096 < 0.2


def test_whole_combinations_are_held_out():
  answers = collections.defaultdict(set)
  for s in everything('all'):
    answers[s.name, s.background, s.count].add(openmoji.is_heldout(s))
  assert all(len(each) == 1 for each in answers.values())


def test_training_shows_each_object_on_many_grounds_and_in_some_number():
  grounds, counts = collections.defaultdict(set), collections.defaultdict(set)
  for s in everything('train'):
    grounds[s.name].add(s.background)
    counts[s.name].add(s.count)
  assert set(grounds) == set(openmoji.QUICK_OBJECTS)
  assert min(map(len, grounds.values())) >= 4
  assert min(map(len, counts.values())) >= 2
  assert set.union(*grounds.values()) == set(openmoji.BACKGROUNDS)


def test_heldout_captions():
  captions = openmoji.heldout_captions(200, seed=3)
  assert len(set(captions)) == 200
  statements = [openmoji.parse(caption) for caption in captions]
  assert all(map(openmoji.is_heldout, statements))
  assert {s.kind for s in statements} == set(openmoji.KINDS)
  few = openmoji.heldout_captions(4, seed=0, names=('fox', 'owl'))
  assert {openmoji.parse(c).name for c in few} <= {'fox', 'owl'}


def test_unknown_split_and_object_are_refused():
  with pytest.raises(ValueError, match="split is 'test'; accepted: 'train'"):
    openmoji.statements('test')
  with pytest.raises(ValueError, match="object 'griffin' is not drawn"):
    openmoji.statements('train', ('griffin',))


@pytest.mark.parametrize('split', ['train', 'heldout'])
def test_scenes_are_of_their_split(split):
  held = {openmoji.is_heldout(s.statement) for s in scenes(200, split)}
  assert held == {split == 'heldout'}


def test_drawings_stay_inside_and_apart():
  for scene in scenes(500):
    for placed in scene.placed:
      half = placed.extent / 2
      assert min(placed.x, placed.y) >= half + 0.011
      assert max(placed.x, placed.y) <= 1 - half - 0.011
    if scene.statement.count > 1:
      one, two, *_ = scene.placed
      apart = max(abs(one.x - two.x), abs(one.y - two.y))
      assert apart >= one.extent + 0.029


def test_positions():
  means = collections.defaultdict(list)
  for scene in scenes(600):
    if scene.statement.count == 1:
      (placed,) = scene.placed
      means[scene.statement.position].append((placed.x, placed.y))
  for position, (x, y) in {
    'middle': (0.5, 0.5),
    'left': (0.33, 0.5),
    'right': (0.67, 0.5),
    'top': (0.5, 0.33),
    'bottom': (0.5, 0.67),
  }.items():
    assert np.mean(means[position], 0) == pytest.approx((x, y), abs=0.02)


@pytest.mark.parametrize('size', [16, 32, 64, 100])
def test_render(size):
  for scene in scenes(20):
    image = openmoji.render(scene, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    ground = openmoji.background(scene.statement.background, scene.brightness)
    plain = np.abs(image - ground).max(-1) < 2
    assert 0.2 < plain.mean() < 0.97


def test_render_at_two_sizes_is_the_same_picture():
  for scene in scenes(10):
    large = openmoji.render(scene, 256).astype(np.float32)
    small = openmoji.render(scene, 64).astype(np.float32)
    averaged = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    # Placement is rounded to pixels: outlines may be half a pixel off. Of 60
    # scenes the same one differs by 13 at most, and another by 25 at least.
    assert np.abs(averaged - small).mean() < 15


def test_too_small_a_picture_is_refused():
  with pytest.raises(ValueError, match='size is 15; accepted: 16'):
    openmoji.render(scenes(1)[0], 15)
