"""Runs single layers: parameters that are all set, features and text."""

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import sharding

F32 = jnp.float32
SHAPE = (2, 4, 4, 8)


def normal(seed, shape=SHAPE):
  return jax.random.normal(jax.random.key(seed), shape)


def shaken(module, *inputs):
  """Parameters at random, none zero; by NumPy, which has not to compile."""
  boxed = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    scale = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.3
    value = scale * rng.normal(size=leaf.shape) + (path[-1].key == 'scale')
    return jnp.asarray(value, leaf.dtype)

  return jax.tree.map_with_path(draw, sharding.unbox(boxed))


def run(module, variables, *args):
  """The module applied, as one program."""
  return jax.jit(module.apply)(variables, *args)


def text(mask):
  embed = normal(2, (2, 5, 6)) * mask[..., None]
  return embed, mask


PREFIX = jnp.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
