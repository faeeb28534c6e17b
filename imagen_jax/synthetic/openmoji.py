"""Pictures of real drawings with real names: OpenMoji, on coloured grounds.

A statement names an object, how many of it, the background's colour and, of
a single one, where it is: 'two lobsters on a teal background', 'a lobster on
the left of a teal background'. With 64 objects there are 4,096 captions.

The drawings are OpenMoji's: `ATTRIBUTION` must stand wherever they are shown.
"""

import dataclasses
import functools
import re

import numpy as np

from imagen_jax.synthetic import drawings
from imagen_jax.synthetic import holdout
from imagen_jax.synthetic import layout
from imagen_jax.synthetic import words

ATTRIBUTION = drawings.ATTRIBUTION

BACKGROUNDS = {
  'white': (248, 248, 248),
  'grey': (150, 156, 162),
  'yellow': (250, 224, 92),
  'orange': (240, 140, 62),
  'pink': (248, 176, 206),
  'purple': (142, 92, 196),
  'teal': (44, 166, 154),
  'navy': (50, 72, 144),
}
# Words for where a single object is; the first says nothing.
POSITIONS = {
  'middle': 'on',
  'left': 'on the left of',
  'right': 'on the right of',
  'top': 'at the top of',
  'bottom': 'at the bottom of',
}
KINDS = {'one': 0.55, 'several': 0.45}
# The longer side of a drawing over the picture's, by count: as large as
# quarters allow, so that an object is still known at 32 pixels.
EXTENTS = {1: 0.54, 2: 0.41, 3: 0.40, 4: 0.40}

# Everyday things that look unlike each other, each drawn in one piece.
QUICK_OBJECTS = (
    # Animals.
    'lobster', 'octopus', 'penguin', 'elephant', 'turtle', 'snail',
    'butterfly', 'owl', 'parrot', 'panda', 'crab', 'giraffe', 'rooster',
    'whale', 'pig', 'flamingo', 'frog', 'fox',
    # Food.
    'red apple', 'banana', 'pineapple', 'strawberry', 'carrot', 'mushroom',
    'hamburger', 'doughnut', 'lemon', 'pear', 'avocado', 'eggplant',
    'cupcake', 'watermelon', 'croissant',
    # Vehicles.
    'trolleybus', 'tractor', 'bicycle', 'sailboat', 'rocket', 'helicopter',
    'airplane', 'taxi', 'locomotive',
    # Things.
    'umbrella', 'key', 'guitar', 'backpack', 'top hat', 'hammer',
    'light bulb', 'palm tree', 'balloon', 'teddy bear', 'soccer ball', 'crown',
    'camera', 'bell', 'house', 'castle', 'cactus', 'sunflower', 'star',
    'chair', 'robot', 'alarm clock',
)  # fmt: skip

_SIZE_JITTER = 0.05
_MARGIN = 0.015
_OFF_CENTRE = 0.17  # From the middle of the picture to 'left', 'top', ...
_WANDER = 0.03
_DIMMEST = 0.96
_HELDOUT_BACKGROUND = 0.12
_HELDOUT_COUNT = 0.06


@dataclasses.dataclass(frozen=True)
class Statement:
  """What a caption says.

  Attributes:
    name: of the object, one of `drawings.objects()`.
    count: how many there are, 1 to 4.
    background: one of `BACKGROUNDS`.
    position: one of `POSITIONS`; 'middle' where count is above 1.
  """

  name: str
  count: int
  background: str
  position: str = 'middle'

  @property
  def kind(self) -> str:
    """One of `KINDS`."""
    return 'one' if self.count == 1 else 'several'


@dataclasses.dataclass(frozen=True)
class Placed:
  """One drawing: centre and longer side over the picture's side."""

  x: float
  y: float
  extent: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """A statement with its jitter drawn: all that `render` needs."""

  statement: Statement
  placed: tuple[Placed, ...]
  brightness: float


def caption(statement: Statement) -> str:
  """Returns the sentence of `statement`; `parse` is its inverse."""
  name = statement.name
  if statement.count == 1:
    what = f'{words.article(name)} {name}'
  else:
    what = f'{words.NUMBERS[statement.count]} {words.plural(name)}'
  ground = statement.background
  place = POSITIONS[statement.position]
  return f'{what} {place} {words.article(ground)} {ground} background'


@functools.cache
def _by_subject():
  """Statements by the caption's beginning, 'a lobster' or 'two lobsters'."""
  table = {}
  for name in drawings.objects():
    table[f'{words.article(name)} {name}'] = (name, 1)
    for count in (2, 3, 4):
      table[f'{words.NUMBERS[count]} {words.plural(name)}'] = (name, count)
  return table


def parse(text: str) -> Statement:
  """Returns the statement that `text` is the caption of.

  Raises:
    ValueError: where `text` is not a sentence of this grammar.
  """
  places = '|'.join(sorted(POSITIONS.values(), key=len, reverse=True))
  pattern = rf'(.+?) ({places}) an? ({"|".join(BACKGROUNDS)}) background'
  match = re.fullmatch(pattern, text)
  subject = _by_subject().get(match[1]) if match else None
  if subject:
    (position,) = (p for p, place in POSITIONS.items() if place == match[2])
    statement = Statement(*subject, match[3], position)
    if caption(statement) == text and (
      statement.count == 1 or position == 'middle'
    ):
      return statement
  raise ValueError(
    f'caption {text!r} is not of the openmoji grammar; accepted: such as '
    '"two lobsters on a teal background", "a lobster on the left of a teal '
    f'background", on {", ".join(BACKGROUNDS)}'
  )


def is_heldout(statement: Statement) -> bool:
  """Whether `statement` is of a combination that training never shows.

  A combination is an object and a background, or an object and a count above
  one.
  """
  name = statement.name
  ground = holdout.share('openmoji', name, statement.background)
  count = holdout.share('openmoji', name, str(statement.count))
  return ground < _HELDOUT_BACKGROUND or (
    statement.count > 1 and count < _HELDOUT_COUNT
  )


@functools.lru_cache(maxsize=8)
def statements(
  split: str, names: tuple[str, ...] = QUICK_OBJECTS
) -> dict[str, tuple[Statement, ...]]:
  """Returns all statements of a split about the objects `names`, by kind.

  Args:
    split: 'train', 'heldout', or 'all' for both.
    names: some of `drawings.objects()`.

  Raises:
    ValueError: for another split, or a name that is no object's.
  """
  if split not in ('train', 'heldout', 'all'):
    raise ValueError(f"split is {split!r}; accepted: 'train', 'heldout', 'all'")
  found = {kind: [] for kind in KINDS}
  for name in names:
    drawings.require(name)
    for ground in BACKGROUNDS:
      some = [Statement(name, 1, ground, place) for place in POSITIONS]
      some += [Statement(name, count, ground) for count in (2, 3, 4)]
      for statement in some:
        if split == 'all' or is_heldout(statement) == (split == 'heldout'):
          found[statement.kind].append(statement)
  return {kind: tuple(some) for kind, some in found.items()}


@functools.cache
def choose_objects(num_objects: int) -> tuple[str, ...]:
  """Returns `num_objects` names: `QUICK_OBJECTS` first, then all others.

  Raises:
    ValueError: where there are not that many.
  """
  if not 1 <= num_objects <= len(drawings.objects()):
    raise ValueError(
      f'num_objects is {num_objects}; accepted: 1 to {len(drawings.objects())}'
    )
  others = [name for name in drawings.objects() if name not in QUICK_OBJECTS]
  # Spread over the alphabet and not its beginning.
  others.sort(key=lambda name: holdout.share('order', name))
  return (*QUICK_OBJECTS, *others)[:num_objects]


def heldout_captions(
  n: int, seed: int, names: tuple[str, ...] = QUICK_OBJECTS
) -> list[str]:
  """Returns `n` distinct captions of the held-out split, kinds mixed.

  Raises:
    ValueError: where `n` is more than there are.
  """
  some = statements('heldout', tuple(names))
  return [caption(s) for s in holdout.draw_distinct(some, KINDS, n, seed)]


def sample_scene(
  rng: np.random.Generator,
  names: tuple[str, ...] = QUICK_OBJECTS,
  split: str = 'train',
) -> Scene:
  """Returns a random scene of `split`: a kind by its share, then any of it."""
  kind = rng.choice(list(KINDS), p=list(KINDS.values()))
  some = statements(split, tuple(names))[str(kind)]
  return lay_out(some[rng.integers(len(some))], rng)


def lay_out(statement: Statement, rng: np.random.Generator) -> Scene:
  """Returns `statement` with size, positions and brightness drawn."""
  jitter = 1 + rng.uniform(-_SIZE_JITTER, _SIZE_JITTER)
  extent = EXTENTS[statement.count] * float(jitter)
  places = layout.PLACES[statement.count]
  if statement.count == 1:
    places = (_place(statement.position),)
  halves = [extent / 2] * statement.count
  centres = layout.wander(rng, places, halves, most=_WANDER, margin=_MARGIN)
  placed = tuple(Placed(*centre, extent) for centre in centres)
  return Scene(statement, placed, float(rng.uniform(_DIMMEST, 1)))


def _place(position):
  sign = {'left': (-1, 0), 'right': (1, 0), 'top': (0, -1), 'bottom': (0, 1)}
  x, y = sign.get(position, (0, 0))
  return 0.5 + _OFF_CENTRE * x, 0.5 + _OFF_CENTRE * y


def background(colour: str, brightness: float = 1.0) -> np.ndarray:
  """Returns a background's RGB, float32 [3] in [0, 255]."""
  return np.float32(BACKGROUNDS[colour]) * np.float32(brightness)


def compose(drawn: np.ndarray, ground: np.ndarray) -> np.ndarray:
  """Returns `drawn` [h, w, 4] over `ground` [h, w, 3] or [3], float32."""
  alpha = drawn[..., 3:].astype(np.float32) / 255
  return drawn[..., :3] * alpha + ground * (1 - alpha)


def render(scene: Scene, size: int) -> np.ndarray:
  """Returns the picture of `scene`, uint8 [size, size, 3].

  Raises:
    ValueError: where `size` is below 16 pixels.
  """
  if size < 16:
    raise ValueError(f'size is {size}; accepted: 16 pixels or more')
  statement = scene.statement
  image = np.empty((size, size, 3), np.float32)
  image[:] = background(statement.background, scene.brightness)
  for placed in scene.placed:
    drawn = drawings.drawing(statement.name, round(placed.extent * size))
    height, width = drawn.shape[:2]
    top = round(placed.y * size - height / 2)
    left = round(placed.x * size - width / 2)
    # Rounding can push a drawing a pixel over the border.
    top = min(max(top, 0), size - height)
    left = min(max(left, 0), size - width)
    patch = image[top : top + height, left : left + width]
    patch[:] = compose(drawn, patch)
  return np.round(image).astype(np.uint8)
