"""Storage that refuses checkpoints for a while: training goes on."""

import logging
import time

import jax
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import checkpoint
from imagen_jax.train import saving
from imagen_jax.train import state as state_lib

# Orbax writes files side by side, and does not wait for the others where one is
# refused; they find its event loop gone.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)

CONFIG = config_lib.Config(
  train=config_lib.TrainConfig(num_steps=100, checkpoint_every=10)
)


def state(step):
  whole = sharding.replicated(sharding.make_mesh(config_lib.MeshConfig()))
  params = jax.device_put({'a': np.full((8, 8), step, np.float32)}, whole)
  count = jax.device_put(np.int32(step), whole)
  return state_lib.TrainState(count, params, params, (params,))


@pytest.fixture
def saver_in():
  """Opens a workdir; gives its `Saver`, and the lines that it says."""
  opened = []

  def open_it(workdir):
    checkpointer = checkpoint.Checkpointer(workdir, config=CONFIG)
    opened.append(checkpointer)
    said = []
    return saving.Saver(checkpointer, CONFIG, {}, 0, said.append), said

  yield open_it
  for checkpointer in opened:
    checkpointer.__exit__(None)


def save(saver, step):
  """Saves as the loop does, and looks until it is known how that went."""
  saver.save(step, state(step), {'step': step})
  deadline = time.monotonic() + 60
  while saver._pending is not None and time.monotonic() < deadline:
    saver.look()


def steps(workdir):
  with checkpoint.Checkpointer(workdir) as checkpointer:
    return checkpointer.steps()


@pytest.mark.parametrize(
  'rights',
  [('write',), ('delete',), ('write', 'read', 'list', 'delete', 'bucket')],
)
def test_a_bucket_that_refuses_is_asked_again(
  rights, bucket, storage_server, saver_in, caplog
):
  caplog.set_level(logging.CRITICAL, 'gcsfs')
  workdir = f'gs://{bucket}/run'
  saver, said = saver_in(workdir)
  save(saver, 10)
  assert (saver.sound, said) == (10, [])
  storage_server.denied |= {(right, bucket) for right in rights}
  save(saver, 20)
  if 'write' in rights:
    assert saver.sound == 10
    assert said[0].startswith('the checkpoint of step 20 was not written (')
    assert 'the newest is of step 10; it will be tried again' in said[0]
    assert saver.due(21)
  storage_server.denied.clear()
  # Orbax writes two files of a save aside, and meets what befell them in the
  # saves after it: so that one or two of those fail, too.
  for step in (25, 30, 35):
    save(saver, step)
  assert saver.sound == 35, said
  assert 35 in steps(workdir)
