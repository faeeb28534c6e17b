"""What a run does about its bad steps, and which batches it passes over.

A step whose batch is passed over counts as a step, and leaves all else as it
was: the steps after it meet the batches and the noise that they would have met.
So what a run computes is a function of its config and of the set of such steps;
that set is saved with each checkpoint. A run that rewinds goes on from the
checkpoint as if it had been told that set in advance.
"""

import dataclasses
import math

from imagen_jax import config as config_lib
from imagen_jax.data import tally as tally_lib
from imagen_jax.train import guard as guard_lib
from imagen_jax.train import skipped

FOLDER = 'passed'


@dataclasses.dataclass(frozen=True)
class Rewind:
  """What a run has to do before it goes on.

  Attributes:
    first: step whose batch is the first to be passed over.
    bad: the bad step, the last one.
    why: what was bad.
  """

  first: int
  bad: int
  why: str


class Passing:
  """The bad steps of one run; the same on all hosts.

  Args:
    guard: what is to be done.
    workdir: gets the records of such steps, by key: `passed/HOST.jsonl`.
    host: number of this one.
  """

  def __init__(self, guard: config_lib.GuardConfig, workdir: str, host: int):
    self._guard, self._ranges = guard, []
    self._keys = {}  # Of the steps since the last look.
    self._list = skipped.Skipped(
      workdir, host, folder=FOLDER, by=('step', 'task', 'key')
    )
    self._listed = []

  def state(self) -> list[list[int]]:
    """The first and the last step of each range that a rewind passes over."""
    return [list(each) for each in self._ranges]

  def restore(self, state: list[list[int]]):
    """Goes on from what `state` returned."""
    self._ranges = [tuple(each) for each in state]

  def over(self, step: int) -> bool:
    """Whether the batch of a step is passed over."""
    return step in self._guard.pass_over or any(
      first <= step <= last for first, last in self._ranges
    )

  def note(self, step: int, rows: dict):
    """Remembers which records a step is of, until `look` or `write`."""
    self._keys[step] = rows['task'], rows['key']
    if self.over(step):
      self._tell(step, 'passed over')

  def look(self, step: int, steps: list[dict], sound) -> Rewind | None:
    """Looks for bad ones among the steps up to and with `step`.

    Args:
      step: the last one.
      steps: metrics of each, from `interval.Interval.state`.
      sound: () -> the step of the newest checkpoint, once no save is under
        way.

    Returns:
      What to do before the run may go on; None for nothing.

    Raises:
      FloatingPointError: where it may not go on.
    """
    found = [
      (step - len(steps) + 1 + number, why)
      for number, each in enumerate(steps)
      if (why := _wrong(each))
    ]
    for bad, why in found:
      self._tell(bad, why)
    self._keys = {}
    if not found or self._guard.policy == 'skip':
      return self._check_count(step, steps, found, sound)
    bad, why = found[0]
    if self._guard.policy == 'stop':
      raise self._error(bad, step, why, sound)
    near = [last for _, last in self._ranges if last > bad - self._guard.window]
    if len(near) >= self._guard.most:
      more = f'{why}, after {len(near)} rewinds within guard.window steps'
      raise self._error(bad, step, more, sound)
    sound()  # Or the checkpoint that is being written would come in between.
    rewind = Rewind(max(1, bad - self._guard.rewind_steps + 1), bad, why)
    self._ranges.append((rewind.first, rewind.bad))
    return rewind

  def write(self):
    """Writes down the records of bad steps, as far as they are known."""
    self._list.write(self._listed)

  def _check_count(self, step, steps, found, sound):
    """Raises FloatingPointError where too many steps were skipped."""
    counts = {step - len(steps) + 1 + n: s for n, s in enumerate(steps)}
    for bad, why in found:
      count = int(counts[bad].get('bad', 0))
      if count > self._guard.most:
        more = f'{why}, with {count} bad steps within guard.window'
        raise self._error(bad, step, more, sound)

  def _error(self, bad, step, why, sound):
    return FloatingPointError(
      f'{why} at step {bad}, in the interval that ends with step {step}; the '
      f'last checkpoint is of step {sound()}'
    )

  def _tell(self, step, why):
    for task, key in zip(*self._keys.pop(step, ((), ()))):
      if len(self._listed) < tally_lib.MAX_LISTED:
        self._listed.append(
          {'step': step, 'task': task, 'key': key, 'reason': why}
        )


def _wrong(metrics):
  """What is wrong with a step, or None; one passed over has no loss."""
  for name in guard_lib.NAMES:
    if not math.isfinite(metrics.get(name, 0.0)):
      return f'{name} is {metrics[name]}'
  if metrics.get('bad') and 'loss' in metrics:
    values = ', '.join(f'{n} {metrics[n]:.4g}' for n in guard_lib.NAMES)
    return f'a spike ({values}), by guard.spike_factor,'
  return None
