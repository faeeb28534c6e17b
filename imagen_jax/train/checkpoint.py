"""Checkpoints: state, data position and config, saved together by Orbax.

Beside the config lie the identity of the text encoder (`text/identity.py`),
which the config does not say, as it names a place and not what lies there; and
digests of all that is saved, by which damage is told when it is read.
"""

import contextlib
import dataclasses
import logging
import pathlib
import threading

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from imagen_jax import config
from imagen_jax import storage
from imagen_jax.train import damage
from imagen_jax.train import digest
from imagen_jax.train import gate
from imagen_jax.train import keeping
from imagen_jax.train import parts as parts_lib
from imagen_jax.train import state as state_lib

# Folders of a workdir: of its checkpoints, of snapshots of its averages, and of
# checkpoints that are damaged.
CHECKPOINTS, SNAPSHOTS, DAMAGED = 'checkpoints', 'ema', 'damaged'

# Seconds that one of several hosts, which fails, waits for its last save.
_PATIENCE = 60


@dataclasses.dataclass(frozen=True)
class Said:
  """What a checkpoint says of itself.

  Attributes:
    step: finished updates.
    config: that it was saved under.
    identity: of the run's text encoder; None before 0.1.0.
    digests: of the parts of the state, and of the position in the data; none
      before 0.1.0.
  """

  step: int
  config: config.Config
  identity: dict | None
  digests: dict[str, str]

  def check(self, digests: dict[str, str]):
    """Raises DamagedError where one of `digests` is not as it was saved."""
    for name, found in digests.items():
      expected = self.digests.get(name, found)
      if found != expected:
        raise damage.DamagedError(
          f'checkpoint {self.step}: {name} is not what was saved (its digest '
          f'is {found}, was {expected})'
        )


class Checkpointer:
  """Checkpoints of one run, in a folder of its workdir.

  A save is asynchronous: it copies the shards to host memory and returns; a
  checkpoint appears under its final name once all of it is written. Use as a
  context manager, which waits for the last one.

  Args:
    workdir: of the run; local or a bucket.
    config: says which checkpoints are kept; None keeps all.
    create: make the workdir where there is none.
    folder: of the checkpoints, in the workdir.
  """

  def __init__(
    self,
    workdir: str,
    *,
    config: config.Config | None = None,
    create: bool = True,
    folder: str = CHECKPOINTS,
  ):
    # Orbax asks for absolute paths, which buckets have anyway.
    storage.check_bucket(workdir, '--workdir')
    self._workdir = storage.Path(workdir)
    if not storage.is_bucket(workdir):
      self._workdir = storage.Path(pathlib.Path(workdir).absolute())
    self._gate = gate.Gate(folder)
    self._judged = {}  # Of each step, the metric by which it is kept.
    self._manager = ocp.CheckpointManager(
      self._workdir / folder,
      options=ocp.CheckpointManagerOptions(
        enable_async_checkpointing=True,
        async_options=ocp.options.AsyncOptions(barrier_sync_fn=self._gate.meet),
        create=create,
        # Hosts that save to two folders at once do not mix the two up.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
          barrier_sync_key_prefix=None if folder == CHECKPOINTS else folder
        ),
        **keeping.options(config, self._judged),
      ),
      item_handlers={
        'state': self._gate.watch(parts_lib.handler()),
        'data': self._gate.watch(ocp.JsonCheckpointHandler()),
        'config': self._gate.watch(ocp.JsonCheckpointHandler()),
      },
    )
    if config is not None and config.keep.best:
      self._judged |= {step: self._judged_by(step) for step in self.steps()}

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if kind is not None and jax.process_count() > 1 and not self._ends():
      return
    try:
      self._manager.wait_until_finished()
    except Exception:
      # What ends the run matters more; who saves has asked for `wait`.
      if kind is None:
        raise
    self._manager.close()

  def _ends(self):
    """Whether the last save ends within what a host that fails waits for it.

    It does not where this host alone has failed: the others wait for what it
    was to compute next, and the save for them.
    """

    def wait():
      with contextlib.suppress(Exception):
        self._manager.wait_until_finished()

    waiting = threading.Thread(target=wait, name='last save', daemon=True)
    waiting.start()
    waiting.join(_PATIENCE)
    return not waiting.is_alive()

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
      state: of the run; its `watch` is not saved, but with `data`.
      data: the position in the data, and 'judged', the metric by which the
        checkpoint is one of the best, or None.
      cfg: the run's config.
      identity: of its text encoder.
    """
    said = {
      'json': config.to_json(cfg),
      'text_identity': identity,
      'digests': parts_lib.digests_of(state, data),
    }
    step = int(state.step)
    self._judged[step] = data.get('judged')
    self._gate.begin()
    args = ocp.args.Composite(
      state=ocp.args.PyTreeSave(parts_lib.of(state)),
      data=ocp.args.JsonSave(data),
      config=ocp.args.JsonSave({**said, 'digest': digest.of_json(said)}),
    )
    try:
      # When to save is the loop's business. Unforced, Orbax may leave a save
      # out without a word, as where the step is not after the newest one.
      self._manager.save(step, force=True, args=args)
    except Exception:
      self._gate.fail()
      raise

  def is_saving(self) -> bool:
    """Whether a save is under way."""
    return self._manager.is_saving_in_progress()

  def wait(self):
    """Returns when no save is under way; raises what the last one met."""
    self._manager.wait_until_finished()

  def discard(self, step: int):
    """Removes what a save that failed has left; to be called on all hosts.

    As far as that can be done: storage that refuses a save may refuse this as
    well, on one host alone, and training goes on. What is left is removed when
    the step is saved again, or a run begins.
    """
    if jax.process_index() == 0:
      with _left_alone('removed'):
        for path in self._manager.directory.glob(
          f'{step}.orbax-checkpoint-tmp*'
        ):
          path.rmtree(missing_ok=True)
    multihost_utils.sync_global_devices(f'imagen_jax_discard_{step}')
    with _left_alone('listed'):
      self._manager.reload()

  def look(self):
    """Looks which checkpoints there are, on all hosts, while none is saved.

    Hosts may differ in what they take for kept, by the time that they have.
    """
    multihost_utils.sync_global_devices('imagen_jax_look')
    self._manager.reload()

  def drop(self, step: int):
    """Removes a checkpoint; to be called on all hosts."""
    self._manager.delete(step)

  def restore(self, step: int, abstract: state_lib.TrainState):
    """The state in the shardings of `abstract`, and the loader's position.

    The mesh may differ from the one that the checkpoint was saved on. Where it
    cannot be read by one host, the others do not learn of it: see `resume`.

    Raises:
      DamagedError: where it cannot be read, on this host.
      ValueError: where storage does not say what there is.
    """
    parts = parts_lib.of(abstract)
    args = ocp.args.PyTreeRestore(
      parts, restore_args=ocp.checkpoint_utils.construct_restore_args(parts)
    )
    restored = self._read(step, 'state', parts_lib.handler(), args)
    data = self._read_json(step, 'data')
    # Orbax may place a scalar on one device; a step wants the whole mesh.
    state = jax.tree.map(
      lambda x, a: jax.device_put(x, a.sharding), restored, parts
    )
    return abstract.replace(**state), data

  def cut(self, step: int):
    """Removes what is of later steps; to be called on all hosts."""
    if jax.process_index() == 0:
      for late in self.steps():
        if late > step:
          (self._manager.directory / str(late)).rmtree()
    # Before any host lists them, so that all know of the same.
    multihost_utils.sync_global_devices(f'imagen_jax_cut_{step}')
    self._manager.reload()

  def set_aside(self, step: int) -> str:
    """Moves a checkpoint to `WORKDIR/damaged`; returns where it is now.

    To be called on all hosts, once none of them reads it.
    """
    folder = self._workdir / DAMAGED
    target, number = folder / str(step), 0
    if jax.process_index() == 0:
      folder.mkdir(parents=True, exist_ok=True)
      while target.exists():
        number += 1
        target = folder / f'{step}-{number}'
      (self._manager.directory / str(step)).rename(target)
    multihost_utils.sync_global_devices(f'imagen_jax_set_aside_{step}')
    self._manager.reload()
    return str(target)

  def said(self, step: int) -> Said:
    """What a checkpoint says of itself.

    Raises:
      DamagedError, ValueError: as `restore`.
    """
    said = self._read_json(step, 'config')
    expected = said.pop('digest', None)
    if 'json' not in said or expected not in (None, digest.of_json(said)):
      raise damage.DamagedError(
        f'checkpoint {step}: config is not what was saved'
      )
    return Said(
      step,
      config.from_json(said['json']),
      said.get('text_identity'),
      said.get('digests', {}),
    )

  def _judged_by(self, step):
    """The metric that a checkpoint is judged by; None where it says none."""
    try:
      return self._read_json(step, 'data').get('judged')
    except ValueError:  # Whether it is damaged is for `resume` to tell.
      return None

  def _read_json(self, step, item):
    args = ocp.args.JsonRestore()
    found = self._read(step, item, ocp.JsonCheckpointHandler(), args)
    if not isinstance(found, dict):
      raise damage.DamagedError(
        f'checkpoint {step}: {item} is not what was saved'
      )
    return found

  def _read(self, step, item, handler, args):
    """An item of a checkpoint, by this host alone.

    Orbax's manager would have every host wait for one that cannot read it.
    """
    path = self._manager.directory / str(step) / item
    try:
      return handler.restore(path, args=args)
    # Of Orbax, TensorStore, JSON and the system: kinds of all sorts.
    except Exception as error:
      raise damage.met(error, step, item, path) from error

  def shapes(self, step: int, part: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of each array of a part of the state, by 'a/b' name."""
    metadata = self._manager.item_metadata(step).state[part]
    return {
      _name(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for path, leaf in jax.tree.leaves_with_path(metadata)
    }

  def restore_some(
    self, step: int, part: str, names: list[str]
  ) -> dict[str, np.ndarray]:
    """Some arrays of a part of the state, on this host; reads nothing else."""
    item = {}
    for name in names:
      node = item
      *parents, last = name.split('/')
      for parent in parents:
        node = node.setdefault(parent, {})
      node[last] = 0
    item = {part: item}
    to_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item
    )
    args = ocp.args.PyTreeRestore(
      item, restore_args=to_numpy, partial_restore=True
    )
    restored = self._read(step, 'state', parts_lib.handler(), args)
    leaves = jax.tree.leaves_with_path(restored[part])
    return {_name(path): leaf for path, leaf in leaves}


@contextlib.contextmanager
def _left_alone(verb):
  """Where storage refuses what is within, it is told, and no more."""
  try:
    yield
  except Exception as error:  # The system's, or of a bucket's client.
    logging.warning(
      'what a save has left cannot be %s: %s', verb, damage.reason(error)
    )


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')
