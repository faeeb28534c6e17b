"""The losses of a run as a curve, and files of such curves.

A file of curves has a JSON object a line, each with a `stage`. The first of a
stage says what it was trained as: `fields`, values by path. Then there is one
for each logged step, with `step`, `images`, `loss`, and losses on held-out
examples where they were measured; and one for each checkpoint that was scored,
with `step`, `images`, `captions` and `scores`.
"""

import dataclasses
import fnmatch
import json
import math

from imagen_jax import config as config_lib
from imagen_jax import storage

# Of a line of metrics, what a curve has beside the loss.
HELD_OUT = ('eval_loss', 'eval_x_loss', 'eval_ema_loss', 'eval_ema_x_loss')
_NUMBERS = ('loss', *HELD_OUT)
# Fields of a config that no loss of its raw weights depends on.
_OTHERS = ('stage.sample.*', 'train.ema_*')
# Bytes of a file of curves; the quickstart's has some ten thousand.
_LARGEST = 64 << 20
_ACCEPTED = (
  'the --workdir of a run that has metrics, or a file of curves such as '
  'docs/quickstart-curves.jsonl'
)


@dataclasses.dataclass(frozen=True)
class Curve:
  """The losses of one stage's run.

  Attributes:
    stage: its name.
    fields: of its config, those that the losses depend on, by path; values as
      JSON has them.
    lines: by ascending step. Each has 'step', and some of 'images' (seen so
      far), 'loss' (the mean since the line before) and `HELD_OUT`.
    scores: the lines of checkpoints that were scored.
  """

  stage: str
  fields: dict
  lines: list[dict]
  scores: list[dict] = dataclasses.field(default_factory=list)

  @property
  def losses(self) -> list[dict]:
    """The lines that have a loss."""
    return [line for line in self.lines if 'loss' in line]

  @property
  def has_images(self) -> bool:
    """Whether all of these say how many images were seen."""
    return all('images' in line for line in self.losses)


def of_run(workdir: str, field: str) -> Curve:
  """Returns the curve of a run, of what its metrics have so far.

  Args:
    workdir: of the run; local or a bucket.
    field: that names it, for errors.

  Raises:
    ValueError: where there is no run.
  """
  folder = storage.Path(workdir)
  found = storage.read(folder / 'config.json', field)
  if found is None:
    raise ValueError(
      f'{field} is {workdir!r}, which has no config.json; accepted: the '
      '--workdir of a run that has begun'
    )
  try:
    tree = json.loads(found)
    name, fields = tree['stage']['name'], config_lib.outcome_fields(tree)
  except (ValueError, KeyError, TypeError):
    raise ValueError(
      f'{field} is {workdir!r}, whose config.json is broken; accepted: the '
      '--workdir of a run that has begun'
    ) from None
  fields = {
    path: value
    for path, value in fields.items()
    if not any(fnmatch.fnmatchcase(path, other) for other in _OTHERS)
  }
  return Curve(name, fields, _metrics(folder / 'metrics.jsonl'))


def _metrics(path):
  """The lines of a file of metrics that are whole, as a curve has them."""
  lines = []
  if not path.exists():
    return lines
  with path.open('rb') as file:
    for text in file:
      try:
        found = json.loads(text)
        line = {'step': found['step']}
      except (ValueError, KeyError, TypeError):
        continue  # A run that was killed wrote a part of it.
      if 'images_seen' in found:
        line['images'] = int(found['images_seen'])
      for name in _NUMBERS:
        if _is_loss(found.get(name)):
          line[name] = found[name]
      if any(name in line for name in _NUMBERS):
        lines.append(line)
  return lines


def read(place: str, field: str) -> list[Curve]:
  """Returns the curves of a run, which is one, or of a file of them.

  Args:
    place: a workdir or a file; local or in a bucket.
    field: that names it, for errors.

  Raises:
    ValueError: where it is neither, or has no losses.
  """
  path = storage.Path(place)
  if storage.read(path / 'config.json', field) is not None:
    curves = [of_run(place, field)]
  else:
    curves = _parse(place, field)
  for curve in curves:
    if not curve.losses:
      raise ValueError(
        f'{field} is {place!r}, where {curve.stage!r} has no losses; accepted: '
        f'{_ACCEPTED}'
      )
  return curves


def _parse(place, field):
  """The curves of a file."""
  path = storage.Path(place)
  large = path.exists() and path.stat().length > _LARGEST
  data = None if large else storage.read(path, field)
  if data is None:
    what = 'which is too large' if large else 'which is neither'
    raise ValueError(f'{field} is {place!r}, {what}; accepted: {_ACCEPTED}')
  curves = {}
  for number, text in enumerate(data.split(b'\n'), 1):
    if not text.strip():
      continue
    try:
      _take(json.loads(text), curves)
    except (ValueError, KeyError, TypeError, RecursionError):
      raise ValueError(
        f'{field} is {place!r}, whose line {number} is none of a file of '
        f'curves; accepted: {_ACCEPTED}'
      ) from None
  if not curves:
    raise ValueError(
      f'{field} is {place!r}, which is empty; accepted: {_ACCEPTED}'
    )
  return list(curves.values())


def _take(line, curves):
  """Puts a line of a file among its curves; ValueError where it is none."""
  if not isinstance(line, dict):
    raise TypeError
  name = line.pop('stage')
  if 'fields' in line:
    if name in curves or not isinstance(line['fields'], dict):
      raise ValueError
    curves[name] = Curve(name, line['fields'], [])
    return
  curve, step = curves[name], line['step']
  if not isinstance(step, int):
    raise TypeError
  if 'scores' in line:
    curve.scores.append(line)
    return
  last = curve.lines[-1] if curve.lines else {'step': 0}
  ascends = step > last['step']
  if 'images' in line:
    ascends = ascends and line['images'] > last.get('images', 0)
  found = [line[name] for name in _NUMBERS if name in line]
  if not ascends or not found or not all(map(_is_loss, found)):
    raise ValueError
  curve.lines.append(line)


def to_text(curves: list[Curve]) -> str:
  """The file of curves; losses with five digits."""
  lines = []
  for curve in curves:
    lines.append({'fields': curve.fields})
    lines += [
      {
        name: float(f'{value:.5g}') if name in _NUMBERS else value
        for name, value in line.items()
      }
      for line in curve.lines
    ]
    lines += curve.scores
    start = len(lines) - len(curve.lines) - len(curve.scores) - 1
    lines[start:] = [{'stage': curve.stage, **each} for each in lines[start:]]
  return ''.join(json.dumps(line) + '\n' for line in lines)


def _is_loss(value):
  """Whether a value is a number that a loss may be."""
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return number and 0 < value < math.inf
