"""The last stage's network on a crop and on the whole picture."""

import dataclasses
import pathlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.models import unet

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
# The crop of the whole picture, and what of the crop no border reaches: the
# coarsest level is a fourth of the size, and of five convolutions and two more.
WHOLE, START, CROP = 128, 16, 96
INSIDE = slice(40, 56)


def network():
  """The net of configs/sr1024.py with its first and last level, and narrow."""
  full = config.load(str(CONFIGS / 'sr1024.py')).stage.unet
  ends = lambda values: (values[0], values[-1])
  small = dataclasses.replace(
    full,
    channels=(8, 8),
    num_res_blocks=(1, 1),
    self_attention=ends(full.self_attention),
    text_attention=ends(full.text_attention),
    head_dim=8,
    embed_dim=16,
    num_groups=4,
    remat=False,
    dtype='float32',
  )
  return unet.UNet(small, lowres=True)


def fixed_statistics(next_function, args, kwargs, context):
  """A GroupNorm as if every picture had mean 0 and deviation 1.

  Its statistics are of all pixels, which are more in a whole picture; that
  difference is the paper's, and nothing else may be.
  """
  module = context.module
  if not isinstance(module, nn.GroupNorm):
    return next_function(*args, **kwargs)
  params = module.variables['params']
  scale, bias = (params[name][None, None, None] for name in ('scale', 'bias'))
  return args[0] * scale + bias


def test_a_crop_is_a_crop_of_the_whole():
  """Away from its borders: the same weights, and so the same picture."""
  normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
  net = network()
  text = structs.TextCond(normal(0, 1, 3, 6), jnp.ones((1, 3), bool))
  z, lowres = (normal(seed, 1, WHOLE, WHOLE, 3) for seed in (1, 2))
  level = jnp.array([0.5])

  def inputs(part):
    cond = structs.Cond(text, lowres[:, part, part], level)
    return z[:, part, part], level, cond

  crop, whole = slice(START, START + CROP), slice(None)
  boxed = jax.eval_shape(net.init, jax.random.key(0), *inputs(crop))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: np.float32(
      rng.normal(size=leaf.shape) * max(1, np.prod(leaf.shape[:-1])) ** -0.5
    ),
    sharding.unbox(boxed['params']),
  )

  def run(*arguments):
    with nn.intercept_methods(fixed_statistics):
      return net.apply({'params': params}, *arguments)

  options = {'xla_backend_optimization_level': 0}
  run = jax.jit(run, compiler_options=options)
  small, large = (np.asarray(run(*inputs(part))) for part in (crop, whole))
  off = np.abs(small - large[:, crop, crop]) / large.std()
  assert off[:, INSIDE, INSIDE].max() < 1e-4
  # At the border the crop is padded where the whole goes on.
  assert off[:, 0].max() > 1e-2
