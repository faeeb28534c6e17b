"""Checkpoints: state, data position and config, saved together by Orbax.

Beside the config lies the identity of the text encoder (`text/identity.py`),
which the config does not say: it names a place, not what lies there.
"""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from imagen_jax import config
from imagen_jax import storage
from imagen_jax.train import state as state_lib

_SLICE_BYTES = 1 << 20


class Checkpointer:
  """Checkpoints of one run, in `WORKDIR/checkpoints`.

  A save is asynchronous: it copies the shards to host memory and returns; a
  checkpoint appears under its final name once all of it is written. Use as a
  context manager, which waits for the last one.

  Args:
    workdir: of the run; local or a bucket.
    keep: how many checkpoints are kept; None keeps all.
    create: make the workdir where there is none.
  """

  def __init__(
    self, workdir: str, *, keep: int | None = None, create: bool = True
  ):
    # Orbax asks for absolute paths, which buckets have anyway.
    storage.check_bucket(workdir, '--workdir')
    path = storage.Path(workdir)
    if not storage.is_bucket(workdir):
      path = storage.Path(pathlib.Path(workdir).absolute())
    self._manager = ocp.CheckpointManager(
      path / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True, create=create
      ),
      item_handlers={
        'state': _state_handler(),
        'data': ocp.JsonCheckpointHandler(),
        'config': ocp.JsonCheckpointHandler(),
      },
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._manager.wait_until_finished()
    self._manager.close()

  def latest(self) -> int | None:
    """The newest complete step, or None."""
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """All complete steps, in order."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    state: state_lib.TrainState,
    data: dict,
    cfg: config.Config,
    identity: dict,
  ):
    """Starts to save a state at its step.

    Args:
      state: of the run.
      data: the loader's position.
      cfg: the run's config.
      identity: of its text encoder.
    """
    self._manager.save(
      int(state.step),
      # When to save is the loop's business. Unforced, Orbax may leave a save
      # out without a word, as where the step is not after the newest one.
      force=True,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(state),
        data=ocp.args.JsonSave(data),
        config=ocp.args.JsonSave(
          {'json': config.to_json(cfg), 'text_identity': identity}
        ),
      ),
    )

  def restore(self, step: int, abstract: state_lib.TrainState):
    """The state in the shardings of `abstract`, and the loader's position.

    The mesh may differ from the one that the checkpoint was saved on.
    """
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          abstract,
          restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        ),
        data=ocp.args.JsonRestore(),
      ),
    )
    # Orbax may place a scalar on one device; a step wants the whole mesh.
    state = jax.tree.map(
      lambda x, a: jax.device_put(x, a.sharding), restored.state, abstract
    )
    return state, restored.data

  def config(self, step: int) -> config.Config:
    """The config that `step` was saved under."""
    return config.from_json(self._said(step)['json'])

  def identity(self, step: int) -> dict | None:
    """The identity of the text encoder of `step`; None before 0.1.0."""
    return self._said(step).get('text_identity')

  def _said(self, step):
    restored = self._manager.restore(
      step, args=ocp.args.Composite(config=ocp.args.JsonRestore())
    )
    return restored.config

  def ema_shapes(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of each EMA parameter of `step`, by 'a/b' name."""
    metadata = self._manager.item_metadata(step).state['ema_params']
    return {
      _name(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for path, leaf in jax.tree.leaves_with_path(metadata)
    }

  def restore_ema(self, step: int, names: list[str]) -> dict[str, np.ndarray]:
    """Some EMA parameters of `step`, on this host; reads nothing else."""
    item = {}
    for name in names:
      node = item
      *parents, last = name.split('/')
      for parent in parents:
        node = node.setdefault(parent, {})
      node[last] = 0
    item = {'ema_params': item}
    to_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item
    )
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          item, restore_args=to_numpy, partial_restore=True
        )
      ),
    )
    leaves = jax.tree.leaves_with_path(restored.state['ema_params'])
    return {_name(path): leaf for path, leaf in leaves}


def _state_handler():
  """Reads and writes a pytree of arrays.

  Where devices hold copies of an array, each writes a slice of it. To cut the
  slices is a computation for each array and device, during which training
  waits: it pays for large arrays alone.
  """
  arrays = ocp.type_handlers.ArrayHandler(
    min_slice_bytes_for_replica_parallel=_SLICE_BYTES
  )
  return ocp.PyTreeCheckpointHandler(
    type_handler_registry=ocp.type_handlers.create_type_handler_registry(
      (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
  )


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')
