"""The programs of runs, traced and loaded once in a process.

Most tests of a run ask how it goes, not what its step computes. To trace that
anew and to load it from the folder of compiled programs takes more than half of
the five seconds of a tiny run.
"""

import contextlib
import functools

import jax
import pytest

from imagen_jax.train import executable
from imagen_jax.train import guard as guard_lib
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

_lower = step_lib.lower_step
_made = {}


def _once(module, name, made_of):
  """`module.name`, called once for each of what `made_of` tells of its call."""
  make = getattr(module, name)

  def remembered(*args):
    key = name, made_of(*args)
    if key not in _made:
      _made[key] = make(*args)
    return _made[key]

  return remembered


def _run(config, tx, shardings, *mesh):
  """What a run's programs are made of: its optimiser is made of the config."""
  settings = executable.settings(config)
  if config.optimizer.decay == 'constant':
    del settings['train.num_steps']
  # What a test may have put into a module's place.
  parts = step_lib.train_step, step_lib.losses_fn, state_lib.make_network
  return repr(sorted(settings.items())), _places(shardings), *parts


def _lowered(config, tx, state, mesh):
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  return _run(config, tx, shardings, mesh)


def _places(shardings):
  return shardings.step.mesh, repr(shardings)


class _Lowered:
  """What `step.lower_step` returns, made when it is asked for, and once."""

  def __init__(self, *args):
    self._args = args

  @functools.cached_property
  def _lowered(self):
    return _lower(*self._args)

  @functools.cached_property
  def _compiled(self):
    return self._lowered.compile()

  def compile(self):
    return self._compiled

  def as_text(self):
    return self._lowered.as_text()


@contextlib.contextmanager
def shared():
  """Within it, a run takes the programs of a former one that are the same.

  Not for tests of what a step computes, or of how it is compiled.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(step_lib, 'lower_step', _Lowered)
    for module, name, made_of in (
      (step_lib, 'lower_step', _lowered),
      (state_lib, 'compile_init', _run),
      (guard_lib, 'compile_pass', lambda shardings: _places(shardings)),
    ):
      patch.setattr(module, name, _once(module, name, made_of))
    yield
