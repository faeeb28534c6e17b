"""When checkpoints are saved, and what is done where one cannot be.

A save goes on beside the training, and so does its failure: a disk that is
full, a bucket that refuses. Then training goes on, each line of metrics tries
again, and each failure is told. Where so much is unsaved as two intervals, it
waits for the storage, and stops after minutes: no more than that can be lost.
"""

import time

from imagen_jax import config as config_lib
from imagen_jax import storage
from imagen_jax.train import checkpoint
from imagen_jax.train import damage
from imagen_jax.train import hosts
from imagen_jax.train import state as state_lib

# Intervals without a checkpoint after which training waits for one.
_UNSAVED = 2

# How the last save stands, worst last.
_SAVED, _SAVING, _FAILED = range(3)


class Saver:
  """Saves the checkpoints of one run; all hosts call it at the same steps.

  Attributes:
    sound: step of the newest checkpoint that is known to be complete.
    seconds: how long training was held up by saves, in all.

  Args:
    checkpointer: of the run.
    config: is saved with the state; says how often.
    identity: of the text encoder, likewise.
    start_step: of the checkpoint that the run goes on from; 0 for none.
    say: is given a line where a save fails.
    what: is saved, in that line's words.
  """

  def __init__(
    self,
    checkpointer: checkpoint.Checkpointer,
    config: config_lib.Config,
    identity: dict,
    start_step: int,
    say,
    what: str = 'checkpoint',
  ):
    self.sound, self.seconds = start_step, 0.0
    self._checkpointer, self._say, self._what = checkpointer, say, what
    self._config, self._identity = config, identity
    self._pending = None  # The step of a save that is not known to be done.
    self._broken = ''  # Why it could not be started.
    self._reason = ''  # Why the last one failed; '' where it did not.
    self._judged = True  # Until one could not be, of which a word is enough.

  def due(self, step: int) -> bool:
    """Whether a checkpoint is to be saved after a step."""
    train = self._config.train
    regular = step % train.checkpoint_every == 0 or step == train.num_steps
    return regular or bool(self._reason and self._pending is None)

  def save(self, step: int, state: state_lib.TrainState, data: dict):
    """Starts to save a state; where too much is unsaved, returns when it is.

    Args:
      step: finished updates.
      state: of the run.
      data: its position in the data.

    Raises:
      ValueError: where nothing can be saved, minutes long.
    """
    begun = time.perf_counter()
    self._settle(wait=True)
    keep = self._config.keep
    if keep.best and data.get('judged') is None and self._judged:
      self._judged = False
      self._say(
        f'the checkpoint of step {step} is not judged by keep.metric, as no '
        f'line of metrics has had {keep.metric!r} so far'
      )
    self._start(step, state, data)
    most = _UNSAVED * self._config.train.checkpoint_every
    if self._reason and step - self.sound > most:
      self.finish(step, state, data)
    self.seconds += time.perf_counter() - begun

  def look(self):
    """Learns whether the last save has failed, so that it is tried again."""
    self._settle(wait=False)

  def wait(self) -> int:
    """Returns the step of the newest checkpoint, once no save is under way."""
    self._settle(wait=True)
    return self.sound

  def finish(self, step: int, state: state_lib.TrainState, data: dict):
    """Returns when the last save is done; tries again where it was not.

    Args:
      step: of the last save.
      state: that it saved.
      data: likewise.

    Raises:
      ValueError: as `save`.
    """
    self._settle(wait=True)
    for wait in storage.WAITS:
      if not self._reason:
        return
      time.sleep(wait)
      self._start(step, state, data)
      self._settle(wait=True)
    if self._reason:
      raise ValueError(
        f'no {self._what} can be written since step {self.sound}: '
        f'{self._reason}; accepted: a --workdir that can be written'
      )

  def _start(self, step, state, data):
    self._pending, self._broken = step, ''
    try:
      self._checkpointer.save(state, data, self._config, self._identity)
    except Exception as error:  # What Orbax, TensorStore and the system raise.
      self._broken = damage.reason(error)

  def _settle(self, *, wait):
    """Learns how the last save stands, on all hosts; what failed is removed."""
    if self._pending is None:
      return
    here, reason = self._outcome(wait)
    (worst,) = hosts.largest([here])
    if worst == _SAVING:
      return
    if here == _SAVING:  # Another host has failed: this one learns of it.
      here, reason = self._outcome(True)
    step, self._pending = self._pending, None
    if worst == _FAILED:
      self._checkpointer.discard(step)
      self._reason = reason or 'another host says why'
      self._say(
        f'the {self._what} of step {step} was not written ({self._reason}); '
        f'the newest is of step {self.sound}; it will be tried again'
      )
      # Complete it may be nevertheless, where what came after it has failed. If
      # hosts, which look one after the other, differed in that, some would save
      # it again and wait for the rest.
      (worst,) = hosts.largest(
        [_SAVED if step in self._checkpointer.steps() else _FAILED]
      )
    if worst == _SAVED:
      self.sound, self._reason = step, ''

  def _outcome(self, wait):
    if self._broken:
      return _FAILED, self._broken
    if not wait and self._checkpointer.is_saving():
      return _SAVING, ''
    try:
      self._checkpointer.wait()
    except Exception as error:  # As in `_start`.
      return _FAILED, damage.reason(error)
    return _SAVED, ''
