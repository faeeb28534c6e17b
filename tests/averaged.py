"""A run of power averages without training: parameters that wander."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import power_ema
from imagen_jax.train import snapshots
from imagen_jax.train import state as state_lib

IDENTITY = {'encoder': 'fake'}


def config(**train):
  train = {'num_steps': 24, 'ema_lengths': (0.05, 0.1), **train}
  train = {'ema_snapshot_every': 2, **train}
  return config_lib.Config(train=config_lib.TrainConfig(**train))


@functools.cache
def params(step):
  """Parameters after a step, float64."""
  rng = np.random.default_rng(step)
  draw = lambda: rng.normal(size=(256, 256)) / 4
  if not step:
    return {'stem': {'kernel': draw()}, 'out': {'kernel': draw()}}
  return jax.tree.map(lambda x: 0.97 * x + draw(), params(step - 1))


@functools.cache
def average(length, step):
  """Their power average, by the paper's recursion in float64."""
  if not step:
    return params(0)
  beta = (1 - 1 / step) ** (power_ema.gamma(length) + 1)
  return jax.tree.map(
    lambda old, new: beta * old + (1 - beta) * new,
    average(length, step - 1),
    params(step),
  )


def state(step, cfg):
  """A state with the averages of a step, split over four devices."""
  mesh = sharding.make_mesh(config_lib.MeshConfig(fsdp=4))
  place = jax.sharding.NamedSharding(mesh, jax.P(None, 'fsdp'))
  put = lambda tree: jax.tree.map(
    lambda x: jax.device_put(np.asarray(x, np.float32), place), tree
  )
  return state_lib.TrainState(
    step=jax.device_put(jnp.int32(step), sharding.replicated(mesh)),
    params=put(params(step)),
    ema_params=put(params(step)),
    opt_state=(),
    ema_powers={
      power_ema.name(length): put(average(length, step))
      for length in cfg.train.ema_lengths
    },
  )


def opened(workdir, cfg, start=0, say=print):
  begun = state(start, cfg)
  return snapshots.Snapshots(str(workdir), cfg, IDENTITY, begun, say)


def run(workdir, cfg, start=0, stop=None):
  """Saves the snapshots of the steps after `start`, to `stop`."""
  with opened(workdir, cfg, start) as saver:
    for step in range(start + 1, (stop or cfg.train.num_steps) + 1):
      if saver.due(step):
        saver.save(step, state(step, cfg))
