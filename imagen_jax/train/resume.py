"""Going on from the newest checkpoint that is sound.

One that is damaged is told, and the one before it is taken. All hosts decide
alike: what one of them cannot read, none of them uses.
"""

from collections.abc import Callable
import dataclasses

from imagen_jax.train import checkpoint
from imagen_jax.train import damage
from imagen_jax.train import hosts
from imagen_jax.train import parts
from imagen_jax.train import state as state_lib

# What a host has found, worst last.
_SOUND, _DAMAGED, _FAILED = range(3)


@dataclasses.dataclass(frozen=True)
class Found:
  """A checkpoint to go on from.

  Attributes:
    said: what it says of itself.
    state: of the run.
    data: its position in the data; see `loop`.
    damaged: what was wrong with newer ones, a line each.
  """

  said: checkpoint.Said
  state: state_lib.TrainState
  data: dict
  damaged: tuple[str, ...]


def newest(
  checkpointer: checkpoint.Checkpointer,
  abstract: Callable[[], state_lib.TrainState],
  check: Callable[[checkpoint.Said], None],
) -> Found | None:
  """Reads the newest sound checkpoint; None where there are none at all.

  Newer ones are moved out of the way, so that their steps can be saved again.

  Args:
    checkpointer: of the run.
    abstract: gives the state to restore into.
    check: is given what a checkpoint says, before its state is read, and
      raises ValueError where the run may not go on from it.

  Raises:
    ValueError: where all are damaged, what stores them does not answer, or
      `check` refuses.
  """
  damaged = {}
  for step in reversed(checkpointer.steps()):
    try:
      said = _together(checkpointer.said, step)
      check(said)
      state, data = _together(checkpointer.restore, step, abstract())
      digests = parts.digests_of(state, data)
      _together(said.check, digests)
    except damage.DamagedError as error:
      damaged[step] = str(error)
      # Or it would lie on the devices beside the one before, and two states
      # need not fit.
      state = None
      continue
    places = {old: checkpointer.set_aside(old) for old in damaged}
    lines = (f'{damaged[old]}; it is now {places[old]}' for old in damaged)
    return Found(said, state, data, tuple(lines))
  if damaged:
    raise ValueError(
      '--workdir has no checkpoint that is sound: '
      f'{"; ".join(damaged.values())}; accepted: one that is, or another '
      '--workdir'
    )
  return None


def _together(function, *args):
  """Returns function(*args), where it succeeds on every host.

  Raises:
    DamagedError: where a checkpoint is damaged, as any host sees it.
    Exception: what this host met otherwise.
    ValueError: where another host failed.
  """
  result, error, status = None, None, _SOUND
  try:
    result = function(*args)
  except damage.DamagedError as found:
    error, status = found, _DAMAGED
  except Exception as found:
    error, status = found, _FAILED
  (worst,) = hosts.largest([status])
  if error and status >= worst:
    raise error
  if worst == _DAMAGED:
    raise damage.DamagedError('damaged, as another host sees it')
  if worst == _FAILED:
    raise ValueError('another host cannot read a checkpoint, and says why')
  return result
