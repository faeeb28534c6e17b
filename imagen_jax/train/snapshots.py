"""Snapshots of a run's power averages, which `posthoc` makes others of.

They lie in `WORKDIR/ema/STEP`, as checkpoints do in theirs, and all are kept. A
run that goes on from step n makes those after n again, so it removes them
first; and n has no checkpoint before its snapshots, and those before, are
complete. So whatever kills a run, none is missing, and none is of another
course of the parameters.

Training waits for a snapshot, as for its data and its samples: a state moves on
with the next step, and what was not written would be lost.
"""

import functools
import time

from flax import struct
import jax
import jax.numpy as jnp

from imagen_jax import config as config_lib
from imagen_jax import storage
from imagen_jax.train import checkpoint
from imagen_jax.train import saving
from imagen_jax.train import state as state_lib


@struct.dataclass
class Snapshot:
  """What a snapshot holds.

  Attributes:
    step: finished updates.
    averages: as `ema_powers` of a state, in the dtype of the config.
  """

  step: jax.Array
  averages: dict


class Snapshots:
  """Saves the snapshots of one run; all hosts call it at the same steps.

  Use as a context manager.

  Args:
    workdir: of the run.
    config: of the run; without `train.ema_lengths`, nothing is ever done.
    identity: of its text encoder.
    state: that the run begins with, or goes on from.
    say: is given a line where a save fails, and one at first.
  """

  def __init__(
    self,
    workdir: str,
    config: config_lib.Config,
    identity: dict,
    state: state_lib.TrainState,
    say,
  ):
    self._train = config.train
    self._checkpointer = None
    if not self._train.ema_lengths:
      return
    self._checkpointer = checkpoint.Checkpointer(
      workdir,
      folder=checkpoint.SNAPSHOTS,
      create=bool(self._train.ema_snapshot_every),
    )
    # They are about to be taken again.
    self._checkpointer.cut(int(state.step))
    self._saver = saving.Saver(
      self._checkpointer,
      config,
      identity,
      max(self._checkpointer.steps(), default=0),
      say,
      'snapshot of averages',
    )
    if self._train.ema_snapshot_every:
      place = storage.Path(workdir) / checkpoint.SNAPSHOTS
      say(
        f'every {self._train.ema_snapshot_every:,} steps a snapshot of the '
        f'averages of {", ".join(map(str, self._train.ema_lengths))} goes to '
        f'{place}, {self._num_bytes(state) / 1e9:,.3f} GB each'
      )

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    if self._checkpointer:
      self._checkpointer.__exit__(*exception)

  def _num_bytes(self, state):
    """The size of a snapshot."""
    each = jnp.dtype(self._train.ema_snapshot_dtype).itemsize
    return each * sum(leaf.size for leaf in jax.tree.leaves(state.ema_powers))

  def due(self, step: int) -> bool:
    """Whether there is to be a snapshot after a step."""
    every = self._train.ema_snapshot_every
    return every > 0 and (step % every == 0 or step == self._train.num_steps)

  def save(self, step: int, state: state_lib.TrainState) -> float:
    """Saves a state's averages; returns after how many seconds it was done.

    Raises:
      ValueError: where it cannot be written, minutes long.
    """
    begun = time.perf_counter()
    averages = _cast(state.ema_powers, self._train.ema_snapshot_dtype)
    snapshot = Snapshot(state.step, averages)
    self._saver.save(step, snapshot, {})
    self._saver.finish(step, snapshot, {})
    return time.perf_counter() - begun


def _cast(averages, dtype):
  """Averages in another dtype, each where it lies."""
  if dtype == 'float32':
    return averages
  places = jax.tree.map(lambda leaf: leaf.sharding, averages)
  return _caster(dtype, jax.tree.structure(averages), *jax.tree.leaves(places))(
    averages
  )


@functools.lru_cache(1)
def _caster(dtype, treedef, *places):
  return jax.jit(
    lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree),
    out_shardings=treedef.unflatten(places),
  )
