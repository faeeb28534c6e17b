"""What tests compare of two runs."""

import json

import jax
import numpy as np

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import checkpoint
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib

# What depends on the machine, not on the run.
_OF_THE_MACHINE = (
  'time',
  'images_per_second',
  'images_per_second_per_chip',
  'goodput',
  'productive_seconds',
  'resumes',
  'data_wait_seconds',
  'data_wait_share',
  'save_wait_seconds',
  'records_read',
  'bad_records',
  'dropped_records',
  'dropped_share',
)


# What is seen of weights now and then, which changes nothing of the run.
_SEEN = ('eval_', 'sample_')


def metrics(workdir):
  """The lines of a run's metrics, without those of the machine or `seen`."""
  lines = []
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    values = json.loads(line)
    for name in _OF_THE_MACHINE:
      values.pop(name)
    # Of each task, too, and each way to lose time.
    lines.append(
      {
        k: v
        for k, v in values.items()
        if 'records' not in k
        and not k.startswith('lost_seconds/')
        and not k.startswith(_SEEN)
      }
    )
  return lines


def seen(workdir):
  """What a run has seen of its weights on held-out examples, by step."""
  found = {}
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    values = json.loads(line)
    step = values['step']
    values = {k: v for k, v in values.items() if k.startswith(_SEEN)}
    if values:
      assert step not in found
      found[step] = values
  return found


def state(workdir, step):
  """A checkpoint's state, with NumPy arrays."""
  with checkpoint.Checkpointer(str(workdir), create=False) as checkpointer:
    cfg = checkpointer.said(step).config
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
