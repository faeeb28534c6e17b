"""Pictures of coloured shapes, and captions that say all that is in them.

Three kinds of statement: one thing ('a large red circle'), several alike
('three small green squares') and two in relation ('a small red triangle to
the left of a large blue circle'). There are 2,400 statements in all (48, 144
and 2,208), of which 396 are held out of training.
"""

import dataclasses
import functools
import itertools

import numpy as np
from PIL import Image
from PIL import ImageDraw

from imagen_jax.synthetic import holdout
from imagen_jax.synthetic import layout
from imagen_jax.synthetic import words

COLOURS = {
  'red': (222, 40, 40),
  'yellow': (246, 204, 30),
  'green': (40, 160, 62),
  'blue': (40, 92, 222),
  'purple': (150, 62, 190),
  'black': (26, 26, 26),
}
SHAPES = ('circle', 'square', 'triangle', 'cross')
# Diameter of a circle of that size over the picture's side.
SIZES = {'small': 0.26, 'large': 0.4}
RELATIONS = ('to the left of', 'to the right of', 'above', 'below')
MIRRORED = {'to the right of': 'to the left of', 'below': 'above'}
KINDS = {'relation': 0.45, 'count': 0.35, 'single': 0.20}
BACKGROUND = (246, 244, 239)

# Extent (width, height) over the diameter; areas are alike within a third.
EXTENTS = {
  'circle': (1.0, 1.0),
  'square': (0.9, 0.9),
  'triangle': (1.12, 1.0),
  'cross': (1.1, 1.1),
}
CROSS_ARM = 0.38  # Width of a cross's bar over the diameter.
_SIZE_JITTER = 0.04
_DIMMEST = 0.95  # The background's brightness is drawn from here to 1.
_MARGIN = 0.01
_WANDER = 0.04  # Of a centre from its place, over the picture's side.
_SUPERSAMPLING = 4
_HELDOUT = {'relation': 0.15, 'count': 0.2, 'single': 0.2}


@dataclasses.dataclass(frozen=True)
class Thing:
  """What a caption says of one object: words from the tables above."""

  colour: str
  shape: str
  size: str

  def __str__(self):
    return f'{self.size} {self.colour} {self.shape}'


@dataclasses.dataclass(frozen=True)
class Statement:
  """What a caption says.

  Attributes:
    things: one thing, or the two of a relation in the order of the caption.
    count: how many of the one thing, 1 to 4; 1 in a relation.
    relation: one of `RELATIONS`, or None.
  """

  things: tuple[Thing, ...]
  count: int = 1
  relation: str | None = None

  @property
  def kind(self) -> str:
    """One of `KINDS`."""
    if self.relation:
      return 'relation'
    return 'single' if self.count == 1 else 'count'


@dataclasses.dataclass(frozen=True)
class Placed:
  """One object of a picture: centre and diameter over the picture's side."""

  thing: Thing
  x: float
  y: float
  diameter: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """A statement with its jitter drawn: all that `render` needs."""

  statement: Statement
  placed: tuple[Placed, ...]
  brightness: float


def caption(statement: Statement) -> str:
  """Returns the sentence of `statement`; `parse` is its inverse."""
  first = statement.things[0]
  if statement.kind == 'relation':
    return f'a {first} {statement.relation} a {statement.things[1]}'
  if statement.kind == 'single':
    return f'a {first}'
  return f'{words.NUMBERS[statement.count]} {words.plural(str(first))}'


def parse(text: str) -> Statement:
  """Returns the statement that `text` is the caption of.

  Raises:
    ValueError: where `text` is not a sentence of this grammar.
  """
  try:
    return _by_caption()[text]
  except KeyError:
    raise ValueError(
      f'caption {text!r} is not of the shapes grammar; accepted: such as '
      '"a large red circle", "three small green squares", "a small red '
      'triangle to the left of a large blue circle"'
    ) from None


def is_heldout(statement: Statement) -> bool:
  """Whether `statement` is of a combination that training never shows.

  A combination is the colour, shape and size of a single thing; the colour,
  shape and count of several; the colours, shapes and relation of two, whichever
  way round it is told: 'a red circle above a blue square' shows what 'a blue
  square below a red circle' does, and both are held out or neither is.
  """
  things, relation = statement.things, statement.relation
  if relation in MIRRORED:
    things, relation = things[::-1], MIRRORED[relation]
  first = things[0]
  parts = [statement.kind, first.colour, first.shape]
  if statement.kind == 'single':
    parts.append(first.size)
  elif statement.kind == 'count':
    parts.append(str(statement.count))
  else:
    parts += [relation, things[1].colour, things[1].shape]
  return holdout.share('shapes', *parts) < _HELDOUT[statement.kind]


@functools.cache
def statements(split: str) -> dict[str, tuple[Statement, ...]]:
  """Returns all statements of a split, by kind.

  Args:
    split: 'train', 'heldout', or 'all' for both.

  Raises:
    ValueError: for another split.
  """
  if split not in ('train', 'heldout', 'all'):
    raise ValueError(f"split is {split!r}; accepted: 'train', 'heldout', 'all'")
  things = [
    Thing(colour, shape, size)
    for colour, shape, size in itertools.product(COLOURS, SHAPES, SIZES)
  ]
  found = {kind: [] for kind in KINDS}
  for thing, count in itertools.product(things, (1, 2, 3, 4)):
    statement = Statement((thing,), count)
    found[statement.kind].append(statement)
  looks = list(itertools.product(COLOURS, SHAPES))
  for first, second in itertools.permutations(looks, 2):
    for relation in RELATIONS:
      things = _sized(first, second, relation)
      found['relation'].append(Statement(things, relation=relation))
  return {
    kind: tuple(
      s for s in some if split == 'all' or is_heldout(s) == (split == 'heldout')
    )
    for kind, some in found.items()
  }


def _sized(first, second, relation):
  """Returns two (colour, shape) pairs as things.

  Their sizes are any of four, but always the same for the same combination:
  a frozen encoder embeds every caption of a set, and four times as many
  would teach nothing new about sizes.
  """
  sizes = list(itertools.product(SIZES, SIZES))
  pick = holdout.share('sizes', *first, relation, *second)
  size_first, size_second = sizes[int(pick * len(sizes))]
  return Thing(*first, size_first), Thing(*second, size_second)


@functools.cache
def _by_caption():
  """Every sentence of the grammar, those with other sizes included."""
  table = {caption(s): s for some in statements('all').values() for s in some}
  for statement in statements('all')['relation']:
    first, second = statement.things
    for size_first, size_second in itertools.product(SIZES, SIZES):
      things = (
        dataclasses.replace(first, size=size_first),
        dataclasses.replace(second, size=size_second),
      )
      other = dataclasses.replace(statement, things=things)
      table[caption(other)] = other
  return table


def heldout_captions(n: int, seed: int) -> list[str]:
  """Returns `n` distinct captions of the held-out split, kinds mixed.

  Raises:
    ValueError: where `n` is more than there are.
  """
  chosen = holdout.draw_distinct(statements('heldout'), KINDS, n, seed)
  return [caption(statement) for statement in chosen]


def sample_scene(rng: np.random.Generator, split: str = 'train') -> Scene:
  """Returns a random scene of `split`: a kind by its share, then any of it."""
  kind = rng.choice(list(KINDS), p=list(KINDS.values()))
  some = statements(split)[str(kind)]
  return lay_out(some[rng.integers(len(some))], rng)


def lay_out(statement: Statement, rng: np.random.Generator) -> Scene:
  """Returns `statement` with sizes and positions drawn.

  Objects keep clear of each other and of the border. In a relation the
  centres are half the picture apart along its axis, but for a little wander.
  """
  things = statement.things * statement.count
  # Several alike are alike in size as well.
  jitter = 1 + rng.uniform(
    -_SIZE_JITTER, _SIZE_JITTER, size=len(statement.things)
  ).repeat(statement.count)
  diameters = [
    SIZES[thing.size] * float(factor) for thing, factor in zip(things, jitter)
  ]
  halves = [
    max(EXTENTS[thing.shape]) * diameter / 2
    for thing, diameter in zip(things, diameters)
  ]
  places = layout.PLACES[len(things)]
  if statement.relation in ('to the right of', 'below'):
    places = places[::-1]
  if statement.relation in ('above', 'below'):
    places = tuple(place[::-1] for place in places)
  centres = layout.wander(rng, places, halves, most=_WANDER, margin=_MARGIN)
  placed = tuple(
    Placed(thing, *centre, diameter)
    for thing, centre, diameter in zip(things, centres, diameters)
  )
  return Scene(statement, placed, float(rng.uniform(_DIMMEST, 1)))


def render(scene: Scene, size: int) -> np.ndarray:
  """Returns the picture of `scene`, uint8 [size, size, 3].

  Raises:
    ValueError: where `size` is below 8 pixels.
  """
  if size < 8:
    raise ValueError(f'size is {size}; accepted: 8 pixels or more')
  # Drawn large and averaged: an edge pixel is what a camera would see of it.
  side = size * _SUPERSAMPLING
  background = tuple(round(c * scene.brightness) for c in BACKGROUND)
  image = Image.new('RGB', (side, side), background)
  draw = ImageDraw.Draw(image)
  for placed in scene.placed:
    place = (placed.x * side, placed.y * side, placed.diameter * side)
    _draw(draw, placed.thing.shape, *place, COLOURS[placed.thing.colour])
  return np.asarray(image.reduce(_SUPERSAMPLING))


def silhouette(
  shape: str, x: float, y: float, diameter: float, box: tuple[int, int]
) -> np.ndarray:
  """Returns how much of each pixel a shape covers, float32 [H, W] in [0, 1].

  Args:
    shape: one of `SHAPES`.
    x: of its centre, in pixels from the left.
    y: of its centre, in pixels from the top.
    diameter: in pixels.
    box: the result's (H, W).
  """
  height, width = (n * _SUPERSAMPLING for n in box)
  image = Image.new('L', (width, height))
  place = (n * _SUPERSAMPLING for n in (x, y, diameter))
  _draw(ImageDraw.Draw(image), shape, *place, 255)
  return np.asarray(image.reduce(_SUPERSAMPLING), np.float32) / 255


def _draw(draw, shape, x, y, diameter, fill):
  half_width, half_height = (e * diameter / 2 for e in EXTENTS[shape])
  # A box of PIL includes the pixels of its far edge.
  far_x, far_y = x + half_width - 1, y + half_height - 1
  box = (x - half_width, y - half_height, far_x, far_y)
  if shape == 'circle':
    draw.ellipse(box, fill)
  elif shape == 'square':
    draw.rectangle(box, fill)
  elif shape == 'triangle':
    draw.polygon([(x, box[1]), (far_x, far_y), (box[0], far_y)], fill)
  else:
    arm = CROSS_ARM * diameter / 2
    draw.rectangle((box[0], y - arm, far_x, y + arm - 1), fill)
    draw.rectangle((x - arm, box[1], x + arm - 1, far_y), fill)
