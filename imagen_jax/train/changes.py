"""What may be another where a run resumes: its config, encoder and arrays."""

import dataclasses
import json

import jax

from imagen_jax import config as config_lib
from imagen_jax.text import identity as identity_lib
from imagen_jax.train import optimizer
from imagen_jax.train import parts
from imagen_jax.train import state as state_lib

# Where the fields are that say which arrays a state has.
_OF_ARRAYS = ('stage.', 'text.', 'optimizer.')


def check(said, config, identity, allowed):
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
