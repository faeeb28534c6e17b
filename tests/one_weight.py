"""A network of one weight, and a state and batches for it."""

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import structs
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


class Network:
  """Stands in for a U-Net: its one weight times the noised image."""

  def __init__(self):
    self.seen = []

  def apply(self, variables, z, logsnr, cond, *, deterministic, rngs):
    self.seen.append((logsnr, cond, deterministic, rngs))
    return variables['params']['w'] * z


def batch(cfg, size=16):
  rng = np.random.default_rng(0)
  pixels = cfg.stage.image_size
  lowres = None
  if cfg.stage.lowres_size:
    lowres = jnp.full((size, *[cfg.stage.lowres_size] * 2, 3), 0.5)
  text = structs.TextCond(
    embed=jnp.ones((size, 6, 8)), mask=jnp.ones((size, 6), bool)
  )
  image = rng.uniform(-1, 1, (size, pixels, pixels, 3)).astype(np.float32)
  return structs.Batch(jnp.asarray(image), text, lowres)


def state(tx, w=0.5):
  params = {'w': jnp.float32(w)}
  return state_lib.TrainState(
    step=jnp.int32(0),
    params=params,
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=tx.init(params),
  )


def losses(cfg, w=0.5, size=16, step=0):
  return step_lib.loss_fn(
    {'w': jnp.float32(w)}, batch(cfg, size), step_lib.step_keys(0, step), cfg
  )
