"""Going on from the newest checkpoint that is sound.

One that is damaged is told, and the one before it is taken. All hosts decide
alike: what one of them cannot read, none of them uses.
"""

from collections.abc import Callable
import dataclasses
import json

import jax

from imagen_jax import config as config_lib
from imagen_jax.text import identity as identity_lib
from imagen_jax.train import checkpoint
from imagen_jax.train import damage
from imagen_jax.train import hosts
from imagen_jax.train import optimizer
from imagen_jax.train import parts
from imagen_jax.train import state as state_lib

# What a host has found, worst last.
_SOUND, _DAMAGED, _FAILED = range(3)

# Where the fields are that say which arrays a state has.
_OF_ARRAYS = ('stage.', 'text.', 'optimizer.')


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


def check_changes(said, config, identity, allowed):
  """Checks that a checkpoint is of this run.

  Args:
    said: by the checkpoint.
    config: of the run.
    identity: of its text encoder.
    allowed: whether they may differ.

  Raises:
    ValueError: where the results would be others, and that is not allowed.
  """
  changes = config_lib.differences(said.config, config)
  if said.identity:
    changes += identity_lib.changes(said.identity, identity)
  if changes and not allowed:
    raise ValueError(
      "the config differs from the checkpoint's: "
      + '; '.join(changes)
      + '; accepted: the same, another --workdir, or --allow-config-change'
    )
  was, now = said.config.train.ema_lengths, config.train.ema_lengths
  if set(was) != set(now):
    raise ValueError(
      f"train.ema_lengths is {now}, the checkpoint's is {was}: an average is "
      'of a whole run; accepted: the same, or another --workdir'
    )
  if changes:
    _check_arrays(said.config, config)


def _check_arrays(was, now):
  """Checks that a state under `now` has the arrays of one under `was`.

  Else they would be found missing, or of another shape, where the checkpoint
  is read, as if it were damaged.

  Args:
    was: the checkpoint's config.
    now: the run's.

  Raises:
    ValueError: where it has others; it names the fields by which it has.
  """
  old, new = _arrays(was), _arrays(now)
  if old == new:
    return
  differ = [
    path for path in sorted({**old, **new}) if old.get(path) != new.get(path)
  ]
  before, after = (
    config_lib.outcome_fields(dataclasses.asdict(each)) for each in (was, now)
  )
  fields = [
    path
    for path in sorted({**before, **after})
    if before.get(path) != after.get(path) and path.startswith(_OF_ARRAYS)
  ]
  named = [field for field in fields if _alone(was, now, field) != old]
  changes = '; '.join(
    f'{field}: {before.get(field)!r} -> {after.get(field)!r}'
    for field in named or fields
  )
  accepted = 'the same'
  if 'optimizer.rules' in named:
    accepted += ' (of a rule, learning_rate and weight_decay may be others)'
  first = differ[0]
  raise ValueError(
    f"{changes}: the checkpoint's state has other arrays ({len(differ)} of "
    f'them, such as {first}: {old.get(first, "none")} -> '
    f'{new.get(first, "none")}); accepted: {accepted}, or another --workdir'
  )


def _alone(was, now, field):
  """The arrays under `was` with one field of `now`; None where it cannot be."""
  tree = dataclasses.asdict(was)
  node, other = tree, dataclasses.asdict(now)
  *parents, last = field.split('.')
  for name in parents:
    node, other = node[name], other[name]
  node[last] = other[last]
  try:
    return _arrays(config_lib.from_json(json.dumps(tree)))
  except ValueError:
    return None


def _arrays(config):
  """Type and shape, in words, of each array of a config's checkpoints."""
  shapes = state_lib.shapes(config, optimizer.make_optimizer(config))
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{leaf.dtype}{list(leaf.shape)}'
    )
    for path, leaf in jax.tree.leaves_with_path(parts.of(shapes))
  }


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
