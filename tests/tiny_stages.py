"""Stages and a network of a few pixels, for the tests of sampling."""

import dataclasses

import jax
import jax.numpy as jnp

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import structs
from imagen_jax.diffusion import process

UNET = config.UNetConfig(
  design='efficient',
  channels=(8,),
  num_res_blocks=(1,),
  self_attention=(False,),
  text_attention=(False,),
  head_dim=4,
  embed_dim=8,
  num_groups=4,
)
SAMPLE = config.SampleConfig(num_steps=3, guidance_weight=3.0, threshold='none')
BASE = config.StageConfig(name='base', image_size=4, unet=UNET, sample=SAMPLE)
SR = config.StageConfig(
  name='sr', image_size=8, lowres_size=4, unet=UNET, sample=SAMPLE
)
# Trained on crops of 16-pixel pictures, which it makes of 8-pixel ones.
CROPS = dataclasses.replace(SR, name='crops', whole_size=16)
MASK = jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def text():
  return structs.TextCond(normal(0, 4, 3, 5) * MASK[..., None], MASK)


def apply(z, logsnr, cond):
  """A network without parameters, to which each of its inputs counts."""
  shift = cond.text.embed.mean((1, 2)) + 0.3 * cond.text.mask.sum(1)
  out = jnp.tanh(z + process.broadcast(shift + 0.1 * logsnr, z))
  if cond.lowres is not None:
    out = out + 0.5 * cond.lowres
    out = out + process.broadcast(0.01 * cond.aug_logsnr, z)
  return out


def sr_cond(aug_level=0.3, **changes):
  """The condition of a super-resolution stage for four images."""
  levels = jnp.full(4, aug_level)
  cond = cascade.make_cond(
    text(), normal(1, 4, 4, 4, 3), normal(2, 4, 8, 8, 3), levels, SR
  )
  return cond.replace(**changes)


def keys(*numbers):
  fold = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(4), n))
  return fold(jnp.array(numbers))


def with_(stage, *, diffusion=None, sample=None):
  """`stage` with fields of two of its groups replaced."""
  return dataclasses.replace(
    stage,
    diffusion=dataclasses.replace(stage.diffusion, **(diffusion or {})),
    sample=dataclasses.replace(stage.sample, **(sample or {})),
  )
