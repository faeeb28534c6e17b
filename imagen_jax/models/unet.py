"""The two U-Nets of the paper: the base stage's, and the Efficient U-Net."""

import functools

from flax import linen as nn
import jax.numpy as jnp

from imagen_jax import config
from imagen_jax.models import layers


class UNet(nn.Module):
  """What both designs share: conditioning, stem and output.

  Maps z [B, H, W, 3], its logsnr [B] and a `structs.Cond` to an output
  [B, H, W, 3], float32, whose meaning the diffusion config's `prediction`
  states. A super-resolution network (`lowres` set) sees its low-res input
  concatenated with z, and the level of that input's corruption beside the
  noise level; with `self_condition`, its own last estimate as well.
  """

  unet: config.UNetConfig
  lowres: bool = False
  self_condition: bool = False

  @nn.compact
  def __call__(self, z, logsnr, cond, deterministic=True):
    unet = self.unet
    dtype = jnp.dtype(unet.dtype)
    text = cond.text.embed.astype(dtype)
    mask = cond.text.mask
    if unet.text_positions:
      text = layers.TextPositions(dtype, name='text_positions')(text)

    emb = layers.LevelEmbedding(unet.embed_dim, dtype, name='time')(logsnr)
    pool = layers.TextPool(
      unet.embed_dim, unet.head_dim, dtype, name='text_pool'
    )
    emb = emb + pool(text, mask)
    if self.lowres:
      aug = layers.LevelEmbedding(unet.embed_dim, dtype, name='aug')
      emb = emb + aug(cond.aug_logsnr)
      z = jnp.concatenate([z, cond.lowres], axis=-1)
    if self.self_condition:
      z = jnp.concatenate([z, cond.x_last], axis=-1)
    if unet.coordinates:
      z = layers.with_coordinates(z)

    stem = layers.conv(
      unet.channels[0],
      stride=unet.stem_stride,
      # Wide enough that its windows overlap: none of the picture is lost.
      size=max(3, 2 * unet.stem_stride - 1),
      dtype=dtype,
      name='stem',
    )
    body = base_body if unet.design == 'base' else efficient_body
    h = body(unet, stem(z.astype(dtype)), emb, text, mask, deterministic)

    h = nn.GroupNorm(unet.num_groups, dtype=dtype, name='norm_out')(h)
    out = layers.conv(
      3 * unet.stem_stride**2,
      zero=True,
      dtype=jnp.float32,
      name='out',
    )(nn.swish(h))
    return layers.depth_to_space(out, unet.stem_stride)


def _blocks(unet, scale, deterministic, emb, text, mask):
  """The residual block and the attention of a level, ready to be called.

  Returns `res(x, dim, name, resample=None)` and `attend(x, level, name)`;
  the latter returns x unchanged where the level has no attention.
  """
  dtype = jnp.dtype(unet.dtype)
  # `deterministic` (argument 3 of __call__, self included) is not traced.
  block = nn.remat(layers.ResBlock, static_argnums=(3,))
  block = block if unet.remat else layers.ResBlock

  def res(x, dim, name, resample=None):
    module = block(
      dim,
      unet.num_groups,
      scale,
      dtype,
      resample=resample,
      dropout=unet.dropout,
      name=name,
    )
    return module(x, emb, deterministic)

  def attend(x, level, name):
    over_pixels = unet.self_attention[level]
    over_text = unet.text_attention[level]
    if not (over_pixels or over_text):
      return x
    attention = layers.Attention(
      over_pixels,
      over_text,
      unet.head_dim,
      unet.attention_expansion,
      unet.num_groups,
      scale,
      dtype,
      name=name,
    )
    return attention(x, text, mask)

  return res, attend


def base_body(unet, h, emb, text, mask, deterministic):
  """The ADM U-Net (paper, section 2.5 and appendix F.1).

  BigGAN blocks resample; every block of the way down is concatenated into its
  mirror on the way up, which has one block more; attention follows each block
  of the levels that have it.
  """
  res, attend = _blocks(unet, 1.0, deterministic, emb, text, mask)
  last = len(unet.channels) - 1
  skips = [h]
  for level, dim in enumerate(unet.channels):
    for i in range(unet.num_res_blocks[level]):
      h = res(h, dim, f'down{level}_res{i}')
      h = attend(h, level, f'down{level}_attn{i}')
      skips.append(h)
    if level < last:
      h = res(h, dim, f'down{level}_resample', 'down')
      skips.append(h)
  h = res(h, unet.channels[last], 'mid_res0')
  h = attend(h, last, 'mid_attn')
  h = res(h, unet.channels[last], 'mid_res1')
  for level in reversed(range(last + 1)):
    dim = unet.channels[level]
    for i in range(unet.num_res_blocks[level] + 1):
      h = jnp.concatenate([h, skips.pop()], axis=-1)
      h = res(h, dim, f'up{level}_res{i}')
      h = attend(h, level, f'up{level}_attn{i}')
    if level > 0:
      h = res(h, dim, f'up{level}_resample', 'up')
  return h


def efficient_body(unet, h, emb, text, mask, deterministic):
  """The Efficient U-Net (paper, appendix B.1).

  A DBlock halves the size first and a UBlock doubles it last, so that every
  other convolution runs at the smaller size; skips are added; residual sums
  are scaled by 1/sqrt 2. Doubling is a convolution to four times the channels
  and a rearrangement, which keeps it at the smaller size too.
  """
  res, attend = _blocks(unet, 2**-0.5, deterministic, emb, text, mask)
  conv = functools.partial(layers.conv, dtype=jnp.dtype(unet.dtype))
  skips = [h]
  for level, dim in enumerate(unet.channels):
    h = conv(dim, stride=2, name=f'down{level}_resample')(h)
    for i in range(unet.num_res_blocks[level]):
      h = res(h, dim, f'down{level}_res{i}')
    h = attend(h, level, f'down{level}_attn')
    skips.append(h)
  for level in reversed(range(len(unet.channels))):
    h = (h + skips.pop()) * 2**-0.5
    for i in range(unet.num_res_blocks[level]):
      h = res(h, unet.channels[level], f'up{level}_res{i}')
    h = attend(h, level, f'up{level}_attn')
    finer = unet.channels[max(level - 1, 0)]
    h = conv(4 * finer, name=f'up{level}_resample')(h)
    h = layers.depth_to_space(h, 2)
  return (h + skips.pop()) * 2**-0.5
