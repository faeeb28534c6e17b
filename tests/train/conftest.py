"""What the tests of training compare of two runs."""

import json
import types

import jax
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import checkpoint
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib

# What depends on the machine, not on the run.
_OF_THE_MACHINE = (
  'images_per_second',
  'data_wait_seconds',
  'records_read',
  'bad_records',
  'dropped_records',
  'dropped_share',
)


def metrics(workdir):
  """The lines of a run's metrics, without those of the machine."""
  lines = []
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    values = json.loads(line)
    for name in _OF_THE_MACHINE:
      values.pop(name)
    lines.append(values)
  return lines


def state(workdir, step):
  """A checkpoint's state, with NumPy arrays."""
  with checkpoint.Checkpointer(str(workdir), create=False) as checkpointer:
    cfg = checkpointer.config(step)
    mesh = sharding.make_mesh(config_lib.MeshConfig())
    tx = optimizer.make_optimizer(cfg)
    shardings = state_lib.state_shardings(cfg, tx, mesh)
    abstract = state_lib.abstract_state(cfg, tx, shardings)
    restored, _ = checkpointer.restore(step, abstract)
  return jax.tree.map(np.asarray, restored)


def steps(workdir):
  """The steps of a run's complete checkpoints."""
  with checkpoint.Checkpointer(str(workdir), create=False) as checkpointer:
    return checkpointer.steps()


def assert_same(workdir, other, step):
  """Asserts that two runs have the same metrics and state, bit for bit."""
  assert metrics(workdir) == metrics(other)
  jax.tree.map(
    np.testing.assert_array_equal, state(workdir, step), state(other, step)
  )


@pytest.fixture(scope='session')
def runs():
  """The functions above, for tests to call."""
  return types.SimpleNamespace(
    metrics=metrics, state=state, steps=steps, assert_same=assert_same
  )
