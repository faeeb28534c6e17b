"""Where a run begins: at its newest checkpoint, or at its seed.

And where it begins anew, when it rewinds.
"""

import dataclasses
import sys

import jax
import numpy as np

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.data import loader as loader_lib
from imagen_jax.train import changes
from imagen_jax.train import checkpoint
from imagen_jax.train import guard as guard_lib
from imagen_jax.train import passing as passing_lib
from imagen_jax.train import reading
from imagen_jax.train import resume
from imagen_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True)
class Start:
  """A state to go on from, and what goes with it.

  Attributes:
    step: finished updates.
    state: of the run.
    kept: metrics since the last line, for `interval.Interval`.
    read: records read before, less what `loader` has counted by now.
    judged: the metric that checkpoints are judged by, or None.
    images: that the network was trained on, each time counted.
    told: lines to be said.
  """

  step: int
  state: state_lib.TrainState
  kept: list[dict]
  read: np.ndarray
  judged: dict | None
  images: int
  told: tuple[str, ...]


class Beginner:
  """Begins a run, once and after each rewind, the same on all hosts.

  Args:
    config: of the run.
    checkpointer: of the run.
    loader: of its batches, at their beginning.
    passing: the steps that are passed over.
    tx: the optimiser.
    mesh: that all lies on.
    count: () -> what all hosts have read since they started; see `reading`.
  """

  def __init__(
    self,
    config: config_lib.Config,
    checkpointer: checkpoint.Checkpointer,
    loader: loader_lib.Loader,
    passing: passing_lib.Passing,
    *,
    tx,
    mesh,
    count,
  ):
    self._config, self._checkpointer = config, checkpointer
    self._loader, self._passing = loader, passing
    self._tx, self._mesh, self._count = tx, mesh, count
    self._shardings = state_lib.state_shardings(config, tx, mesh)
    self._front = loader.state()
    # Of what `count` says now, what is not of this beginning.
    self._counted = reading.from_state({}, self._tasks())

  def first(self, identity: dict, *, allow_change: bool) -> Start:
    """Begins at the newest checkpoint.

    Args:
      identity: of the text encoder.
      allow_change: of it, or the config.

    Raises:
      ValueError: where the run may not go on from what is there.
    """

    def check(said):
      changes.check(said, self._config, identity, allow_change)
      self._say_if_last(said.step)

    found = self._find(check)
    if not found:
      return self._from_seed(())
    self._passing.restore(found.data.get('passed', []))
    step = found.said.step
    told = [f'went on from step {step}, as {line}' for line in found.damaged]
    if not found.said.identity:
      told.append(
        f'the checkpoint of step {step} has no identity of its text encoder; '
        'this one is taken for it'
      )
    return self._from(found, told, allow_other_data=allow_change)

  def _say_if_last(self, step: int):
    """Says that the last checkpoint is read, as nothing is said before that."""
    last = self._config.train.num_steps
    if step >= last and jax.process_index() == 0:
      print(
        f'{self._config.stage.name}: the newest checkpoint is of step '
        f'{step:,}, and train.num_steps is {last:,}: it is read and checked',
        file=sys.stderr,
        flush=True,
      )

  def again(self, rewind: passing_lib.Rewind) -> Start:
    """Begins at the newest checkpoint of before the steps to be passed over.

    Those after it are removed: they are saved again.

    Raises:
      FloatingPointError: where there was one, and it is not kept.
    """
    self._counted = self._count()
    self._checkpointer.look()
    kept = self._checkpointer.steps()
    if kept and kept[0] >= rewind.first > self._config.train.checkpoint_every:
      raise FloatingPointError(
        f'{rewind.why} at step {rewind.bad}, and no checkpoint of before step '
        f'{rewind.first} is kept; accepted: guard.rewind_steps below '
        f'{self._config.guard.rewind_steps}, or more that are kept'
      )
    for step in kept:
      if step >= rewind.first:
        self._checkpointer.drop(step)
    found = self._find(lambda said: None)
    step = found.said.step if found else 0
    line = (
      f'{rewind.why} at step {rewind.bad}: went back to step {step}, to pass '
      f'over the batches of steps {rewind.first} to {rewind.bad}'
    )
    if not found:
      self._loader.restore(self._front)
      return self._from_seed([line])
    return self._from(found, [line], allow_other_data=False)

  def _find(self, check):
    abstract = lambda: state_lib.abstract_state(
      self._config, self._tx, self._shardings
    )
    return resume.newest(self._checkpointer, abstract, check)

  def _from_seed(self, told):
    state = state_lib.init_state(self._config, self._tx, self._shardings)
    nothing = reading.from_state({}, self._tasks())
    read = nothing - self._counted
    return Start(0, state, [], read, None, 0, tuple(told))

  def _from(self, found, told, *, allow_other_data):
    data = found.data
    self._loader.restore(
      data['loader'],
      allow_other_data=allow_other_data,
      rates={task.name: task.rate for task in found.said.config.data.tasks},
      batch_size=found.said.config.train.batch_size,
    )
    # Checkpoints of before 0.1.0 lack some of it.
    watch = guard_lib.from_json(
      data.get('watch'), self._config.guard, sharding.replicated(self._mesh)
    )
    read = reading.from_state(data.get('read', {}), self._tasks())
    size = found.said.config.train.batch_size
    return Start(
      found.said.step,
      found.state.replace(watch=watch),
      data['interval'],
      read - self._counted,
      data.get('judged'),
      data.get('images', found.said.step * size),
      tuple(told),
    )

  def _tasks(self):
    return [task.name for task in self._config.data.tasks]
