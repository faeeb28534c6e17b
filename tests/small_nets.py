"""The two U-Nets, small, with parameters and inputs of two images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.models import unet

BASE = config.UNetConfig(
  design='base',
  channels=(8, 16),
  num_res_blocks=(1, 2),
  self_attention=(False, True),
  text_attention=(False, True),
  head_dim=8,
  embed_dim=16,
  num_groups=4,
  remat=False,
  dtype='float32',
)
EFFICIENT = dataclasses.replace(BASE, design='efficient', attention_expansion=2)
# The super-resolution stage is the Efficient U-Net's.
NETS = {
  'base': unet.UNet(BASE),
  'efficient': unet.UNet(EFFICIENT, lowres=True),
}
BOTH = pytest.mark.parametrize('design', NETS)
SIZE = 8


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def inputs(design, *, size=SIZE, **changes):
  """z, logsnr and condition of two images, of 3 and 1 tokens.

  `changes` are put in the place of fields of the condition.
  """
  mask = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
  text = structs.TextCond(normal(0, 2, 4, 6) * mask[..., None], mask)
  cond = structs.Cond(text)
  if NETS[design].lowres:
    cond = cond.replace(
      lowres=normal(1, 2, size, size, 3), aug_logsnr=jnp.array([0.0, 3.0])
    )
  z, logsnr = normal(2, 2, size, size, 3), jnp.array([-1.0, 2.0])
  return z, logsnr, cond.replace(**changes)


def with_unet(design, **changes):
  """The design's network with settings of its config changed."""
  network = NETS[design]
  return network.clone(unet=dataclasses.replace(network.unet, **changes))


@functools.cache
def shaken(network, design):
  """Parameters at random, none zero; by NumPy, which has not to compile."""
  boxed = jax.eval_shape(network.init, jax.random.key(0), *inputs(design))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    scale = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.3
    value = scale * rng.normal(size=leaf.shape) + (path[-1].key == 'scale')
    return jnp.asarray(value, leaf.dtype)

  return jax.tree.map_with_path(draw, sharding.unbox(boxed['params']))


def params_of(design):
  return shaken(NETS[design], design)


@functools.cache
def apply_fn(network):
  """(params, z, logsnr, cond) -> output, jitted."""
  return jax.jit(lambda params, *args: network.apply({'params': params}, *args))


def apply(design, *arguments):
  return apply_fn(NETS[design])(params_of(design), *arguments)


def convolve(h, kernel, stride=1):
  return jax.lax.conv_general_dilated(
    h,
    kernel,
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
