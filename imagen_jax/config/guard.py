"""What becomes of a step that goes wrong, and of old checkpoints."""

import dataclasses
import math

from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import one_of
from imagen_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """Bad steps: those whose loss or gradient is not finite, or a spike.

  Attributes:
    policy: 'stop' ends the run; 'skip' leaves the state as it was before the
      step; 'rewind' goes back to the checkpoint before it, and passes over its
      batch.
    spike_factor: a loss or a gradient's norm so many times its running median
      is a spike; 0 lets all that is finite pass.
    window: steps that the median is of; it judges once half of them are there.
    most: bad steps, or rewinds, within a window; one more ends the run.
    rewind_steps: steps whose batches a rewind passes over: the bad one, and
      those before it.
    pass_over: steps, by number, whose batches are passed over from the start.
  """

  policy: str = 'stop'
  spike_factor: float = 0.0
  window: int = 100
  most: int = 10
  rewind_steps: int = 1
  pass_over: tuple[int, ...] = ()

  def __post_init__(self):
    one_of('guard.policy', self.policy, ('stop', 'skip', 'rewind'))
    require(
      self.spike_factor == 0 or 1 < self.spike_factor < math.inf,
      f'guard.spike_factor is {self.spike_factor}; accepted: 0, or above 1',
    )
    for name in ('window', 'most', 'rewind_steps'):
      at_least(f'guard.{name}', getattr(self, name), 1)
    for step in self.pass_over:
      at_least('guard.pass_over', step, 1)

  @property
  def active(self) -> bool:
    """Whether the step itself judges what it has computed."""
    return self.policy != 'stop' or self.spike_factor > 0


@dataclasses.dataclass(frozen=True)
class KeepConfig:
  """Checkpoints that are kept besides the `train.keep_checkpoints` newest.

  Attributes:
    every_steps: those of steps that this divides; 0 for none.
    every_hours: one every so many hours; 0 for none.
    best: so many, whose metric is best; 0 for none.
    metric: the one of a line of metrics that says which is best.
    mode: 'min' where less of it is better, or 'max'.
  """

  every_steps: int = 0
  every_hours: float = 0.0
  best: int = 0
  metric: str = 'loss'
  mode: str = 'min'

  def __post_init__(self):
    for name in ('every_steps', 'every_hours', 'best'):
      at_least(f'keep.{name}', getattr(self, name), 0)
    require(
      self.every_hours < math.inf,
      f'keep.every_hours is {self.every_hours}; accepted: 0 or more hours',
    )
    require(self.metric, "keep.metric is ''; accepted: a metric's name")
    one_of('keep.mode', self.mode, ('min', 'max'))
