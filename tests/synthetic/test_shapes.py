import collections
import itertools

import numpy as np
import pytest

from imagen_jax.synthetic import shapes


def everything(split):
  return [s for some in shapes.statements(split).values() for s in some]


def scenes(n, split='all', seed=0):
  rng = np.random.default_rng(seed)
  return [shapes.sample_scene(rng, split) for _ in range(n)]


def test_the_numbers_of_the_docstring():
  counts = {k: len(v) for k, v in shapes.statements('all').items()}
  assert counts == {'relation': 2208, 'count': 144, 'single': 48}
  assert len(everything('heldout')) == 396


def test_splits_share_nothing_and_make_the_whole():
  train, heldout = map(set, map(everything, ('train', 'heldout')))
  assert not train & heldout
  assert train | heldout == set(everything('all'))


def test_whole_combinations_are_held_out():
  looks = collections.defaultdict(set)
  for statement in everything('all'):
    things = tuple((t.colour, t.shape) for t in statement.things)
    if statement.kind == 'count':
      key = (things, statement.count)
      looks[key].add(shapes.is_heldout(statement))
  assert looks and all(len(answers) == 1 for answers in looks.values())


def test_a_scene_is_held_out_however_it_is_told():
  mirrored = {
    'to the left of': 'to the right of',
    'to the right of': 'to the left of',
    'above': 'below',
    'below': 'above',
  }
  held = [s for s in everything('heldout') if s.relation]
  assert held
  for s in held:
    other = shapes.Statement(s.things[::-1], relation=mirrored[s.relation])
    assert shapes.is_heldout(other)


@pytest.mark.parametrize('kind', ['count', 'relation'])
def test_training_shows_each_look_in_every_kind(kind):
  some = shapes.statements('train')[kind]
  looks = {(t.colour, t.shape) for s in some for t in s.things}
  assert looks == set(itertools.product(shapes.COLOURS, shapes.SHAPES))


def test_training_shows_each_word():
  train = everything('train')
  assert {s.count for s in train} == {1, 2, 3, 4}
  assert {s.relation for s in train} == {None, *shapes.RELATIONS}
  single = shapes.statements('train')['single']
  for field in ('colour', 'shape', 'size'):
    words = {getattr(s.things[0], field) for s in single}
    assert words == {
      getattr(s.things[0], field) for s in shapes.statements('all')['single']
    }


def test_parse_inverts_caption():
  captions = [shapes.caption(s) for s in everything('all')]
  assert len(set(captions)) == len(captions)
  assert [shapes.parse(c) for c in captions] == everything('all')


def test_any_two_sizes_may_be_asked_for():
  for first, second in itertools.product(shapes.SIZES, shapes.SIZES):
    text = f'a {first} red circle above a {second} blue cross'
    statement = shapes.parse(text)
    assert [t.size for t in statement.things] == [first, second]
    assert shapes.caption(statement) == text


@pytest.mark.parametrize(
  'text',
  [
    '',
    'a red circle',
    'five small red circles',
    'a small red circle above a small red circle',
    'A large red circle',
  ],
)
def test_other_captions_are_refused(text):
  with pytest.raises(ValueError, match='is not of the shapes grammar'):
    shapes.parse(text)


def test_heldout_captions():
  captions = shapes.heldout_captions(200, seed=3)
  assert len(set(captions)) == 200
  statements = [shapes.parse(caption) for caption in captions]
  assert all(map(shapes.is_heldout, statements))
  assert {s.kind for s in statements} == set(shapes.KINDS)
  assert captions == shapes.heldout_captions(200, seed=3)


def test_too_many_heldout_captions_are_refused():
  with pytest.raises(ValueError, match='accepted: 0 to 396'):
    shapes.heldout_captions(397, seed=0)


def test_unknown_split_is_refused():
  with pytest.raises(ValueError, match="split is 'test'; accepted: 'train'"):
    shapes.statements('test')


def test_kinds_come_by_their_shares():
  kinds = collections.Counter(s.statement.kind for s in scenes(2000))
  for kind, share in shapes.KINDS.items():
    assert kinds[kind] / 2000 == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize('split', ['train', 'heldout'])
def test_scenes_are_of_their_split(split):
  held = {shapes.is_heldout(s.statement) for s in scenes(300, split)}
  assert held == {split == 'heldout'}


def box(placed):
  width, height = shapes.EXTENTS[placed.thing.shape]
  x, y, d = placed.x, placed.y, placed.diameter
  return (x - width * d / 2, y - height * d / 2,
          x + width * d / 2, y + height * d / 2)  # fmt: skip


def test_objects_stay_inside_and_apart():
  for scene in scenes(1000):
    boxes = [box(placed) for placed in scene.placed]
    for each in boxes:
      assert min(each) >= 0.0099 and max(each) <= 0.9901
    for one, two in itertools.combinations(boxes, 2):
      gaps = (one[0] - two[2], two[0] - one[2],
              one[1] - two[3], two[1] - one[3])  # fmt: skip
      assert max(gaps) >= 0.0199


def test_a_relation_is_beyond_doubt():
  directions = dict(zip(shapes.RELATIONS, ((1, 0), (-1, 0), (0, 1), (0, -1))))
  seen = set()
  for scene in scenes(600):
    if scene.statement.relation:
      first, second = scene.placed
      offset = (second.x - first.x, second.y - first.y)
      along = np.dot(offset, directions[scene.statement.relation])
      across = min(map(abs, offset))
      assert along >= 0.4199 and across <= 0.0801
      seen.add(scene.statement.relation)
  assert seen == set(shapes.RELATIONS)


def test_sizes_do_not_meet():
  diameters = collections.defaultdict(list)
  for scene in scenes(500):
    for placed in scene.placed:
      diameters[placed.thing.size].append(placed.diameter)
  assert max(diameters['small']) * 1.4 < min(diameters['large'])


def test_areas_are_alike():
  areas = [
    shapes.silhouette(shape, 50, 50, 60, (100, 100)).sum()
    for shape in shapes.SHAPES
  ]
  assert max(areas) / min(areas) < 1.5


@pytest.mark.parametrize('size', [32, 64, 100])
def test_render_shows_colours_where_they_were_placed(size):
  for scene in scenes(20):
    image = shapes.render(scene, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    for placed in scene.placed:
      pixel = image[int(placed.y * size), int(placed.x * size)]
      assert tuple(pixel) == shapes.COLOURS[placed.thing.colour]
    assert image[0, 0].min() > 0.9 * min(shapes.BACKGROUND)


def test_render_at_two_sizes_is_the_same_picture():
  for scene in scenes(20):
    large = shapes.render(scene, 128).astype(np.float32)
    small = shapes.render(scene, 32).astype(np.float32)
    averaged = large.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(averaged - small).mean() < 4


def test_too_small_a_picture_is_refused():
  with pytest.raises(ValueError, match='size is 7; accepted: 8'):
    shapes.render(scenes(1)[0], 7)
