"""A run's loss curve laid over another's."""

import dataclasses
import fnmatch
import math

import numpy as np

from imagen_jax import curves as curves_lib
from imagen_jax import status

# Rows of the table, and columns of the bars.
_ROWS, _COLUMNS = 10, 60
# Lines within a row, that its noise can be told from.
_FEW = 4
# Of images a step: less is a batch that was passed over now and then.
_SAME = 0.01
# Fields that make a loss another quantity.
_KIND = ('stage.diffusion.*', 'stage.image_size', 'stage.lowres_size')
# Letters of a value that is shown, and fields that are.
_SHORT, _SHOWN = 40, 12


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The losses of a run and of a reference, by what they have in common.

  Attributes:
    by: 'step' or 'images'.
    edges: of the rows, ascending; a row is of what lies between two.
    reference: mean loss of each row.
    run: the same of the run.
    bars: the losses of both, the reference first, on one scale.
    scale: the lowest loss of the bars, and the highest.
    noise: standard error of the last row's ratio, by how its lines differ from
      their neighbours; None where it has few.
  """

  by: str
  edges: list[int]
  reference: list[float]
  run: list[float]
  bars: tuple[str, str]
  scale: tuple[float, float]
  noise: float | None


class _Losses:
  """A curve's losses over steps, or over images.

  A line's loss is the mean since the line before, so that the mean over any
  stretch that ends and begins at lines is exact.
  """

  def __init__(self, curve, by):
    lines = curve.losses
    self.ends = np.array([line[by] for line in lines])
    self.losses = np.array([line['loss'] for line in lines])
    # Of a file whose beginning is cut off, not 0.
    first = self.ends[0] - np.diff(self.ends[:2])[0] if len(lines) > 1 else 0
    self.start = max(0, int(first))
    self._at = np.concatenate([[self.start], self.ends])
    sums = np.cumsum(self.losses * np.diff(self._at))
    self._sums = np.concatenate([[0.0], sums])

  def within(self, start, end):
    """Which lines lie in (start, end]."""
    return (self.ends > start) & (self.ends <= end)

  def means(self, edges):
    """The mean loss between each two edges."""
    return np.diff(np.interp(edges, self._at, self._sums)) / np.diff(edges)

  def noise(self, start, end):
    """The relative variance of the mean over a stretch; None for few lines."""
    found = np.log(self.losses[self.within(start, end)])
    if len(found) < _FEW:
      return None
    # By neighbours: what the curve itself does within a row is not noise.
    return float(np.mean(np.diff(found) ** 2) / 2 / len(found))


def compare(
  run: curves_lib.Curve, reference: curves_lib.Curve
) -> Comparison | None:
  """Lays a run's losses over a reference's; None where nothing is in common.

  By images seen, where a step of one has more of them than of the other, and
  both tell; else by steps.
  """
  if not run.losses:
    return None
  by = 'images' if _other_batch(run, reference) else 'step'
  one, other = _Losses(run, by), _Losses(reference, by)
  start = max(one.start, other.start)
  end = min(one.ends[-1], other.ends[-1])
  # Edges are where the one with fewer lines has some.
  lines = min(
    (each.ends[each.within(start, end)] for each in (one, other)), key=len
  )
  if not len(lines):
    return None
  edges = _edges(start, lines, _ROWS)
  variances = [each.noise(*edges[-2:]) for each in (one, other)]
  columns = _edges(start, lines, _COLUMNS)
  drawn = [np.log(each.means(columns)) for each in (other, one)]
  low, high = np.min(drawn), np.max(drawn)
  return Comparison(
    by=by,
    edges=edges,
    reference=other.means(edges).tolist(),
    run=one.means(edges).tolist(),
    bars=tuple(status.bars(each, low, high) for each in drawn),
    scale=(math.exp(low), math.exp(high)),
    noise=None if None in variances else math.sqrt(sum(variances)),
  )


def _other_batch(run, reference):
  """Whether steps of the two differ in images, as both tell."""
  if not (run.has_images and reference.has_images):
    return False
  last = [curve.losses[-1] for curve in (run, reference)]
  rates = [line['images'] / line['step'] for line in last]
  return abs(rates[0] / rates[1] - 1) > _SAME


def _edges(start, lines, count):
  """`start`, then about `count` of the lines, evenly, with the last one."""
  wanted = np.linspace(start, lines[-1], min(count, len(lines)) + 1)[1:]
  nearest = {int(lines[np.argmin(np.abs(lines - at))]) for at in wanted}
  return [start, *sorted(nearest)]


def report(workdir: str, place: str) -> str:
  """A run against a reference, as lines for a person.

  Args:
    workdir: of the run.
    place: of the reference, as --compare has it: another run's workdir, or a
      file of curves.

  Raises:
    ValueError: where there is no run, or no reference of its stage.
  """
  run = curves_lib.of_run(workdir, 'WORKDIR')
  reference = _choose(curves_lib.read(place, '--compare'), run, place)
  lines = [f'against {place} ({reference.stage}):']
  found = compare(run, reference)
  if found is None:
    return f'{lines[0]} no steps in common yet'
  lines += _table(found)
  lines += _held_out(run, reference, found.by)
  changed = _differences(run.fields, reference.fields)
  if changed:
    told = [
      f'{name} {_short(run.fields[name])} '
      f'(reference: {_short(reference.fields[name])})'
      for name in changed[:_SHOWN]
    ]
    told += [f'and {len(changed) - _SHOWN} more'] * (len(changed) > _SHOWN)
    lines.append(f'configs differ: {", ".join(told)}')
    without = [
      name
      for name, curve in (('the run', run), ('the reference', reference))
      if not curve.has_images
    ]
    if 'train.batch_size' in changed and without:
      lines.append(f'by steps: no images_seen in {" and in ".join(without)}')
  lines.append(_verdict(found, changed))
  return '\n'.join(lines)


def _choose(curves, run, place):
  """The reference for a run: of its stage's name, or the only one."""
  by_name = {curve.stage: curve for curve in curves}
  if run.stage in by_name or len(curves) == 1:
    return by_name.get(run.stage, curves[0])
  raise ValueError(
    f'--compare is {place!r}, which has no curve of {run.stage!r}; accepted: a '
    f'file of that stage or of one alone; this has {", ".join(by_name)}'
  )


def _table(found):
  """The rows, and the bars."""
  unit = 'steps' if found.by == 'step' else 'images'
  head = f'{found.by:>13} {"reference":>10} {"this run":>10} {"ratio":>7}'
  rows = [f'{head}   (loss, the mean over the {unit} since the row above)']
  for end, theirs, ours in zip(found.edges[1:], found.reference, found.run):
    rows.append(f'{end:13,} {theirs:10.4g} {ours:10.4g} {ours / theirs:7.3f}')
  low, high = found.scale
  return [
    *rows,
    f'reference: {found.bars[0]}',
    f'this run:  {found.bars[1]}',
    f'           one scale for both, of logarithms: {low:.4g} to {high:.4g}',
  ]


def _held_out(run, reference, by):
  """A line on losses on held-out examples, where last both have them."""
  theirs = {line.get(by): line for line in reference.lines}
  for ours in reversed([line for line in run.lines if by in line]):
    other = theirs.get(ours[by], {})
    names = [n for n in curves_lib.HELD_OUT if n in ours and n in other]
    if names:
      told = [
        f'{name} {ours[name]:.4g} (reference: {other[name]:.4g})'
        for name in names
      ]
      return [f'held out, {_at(by, ours[by])}: {", ".join(told)}']
  return []


def _differences(ours, theirs):
  """Fields that both have, with other values; another version has others."""
  return [
    name for name in ours if name in theirs and ours[name] != theirs[name]
  ]


def _short(value):
  text = f'{value}'
  return text if len(text) <= _SHORT else text[: _SHORT - 3] + '...'


def _at(by, number):
  return f'at step {number:,}' if by == 'step' else f'after {number:,} images'


def _verdict(found, changed):
  """How far the run is from the reference at the end of what they share."""
  ratio = found.run[-1] / found.reference[-1]
  last = _at(found.by, found.edges[-1])
  text = f'{last}, the last in common: the loss is '
  if round(abs(ratio - 1), 3) == 0:
    text += "the reference's"
  else:
    side = 'above' if ratio > 1 else 'below'
    text += f"{abs(ratio - 1):.1%} {side} the reference's"
    if found.noise is not None:
      far = abs(math.log(ratio)) > 2 * found.noise
      word = 'more than' if far else 'within'
      text += f' ({word} the noise of its lines, {2 * found.noise:.1%})'
  kinds = [
    name
    for name in changed
    if any(fnmatch.fnmatchcase(name, kind) for kind in _KIND)
  ]
  if kinds:
    text += f', which is of another kind: {kinds[0]} differs'
  return text
