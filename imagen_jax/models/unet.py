"""The two U-Nets of the paper: the base stage's, and the Efficient U-Net."""

import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp

from imagen_jax import config
from imagen_jax.models import layers
from imagen_jax.models import repeats


def module_of(name: str) -> str:
  """The module that a part of the network is reported as: its level."""
  match = re.match(r'((?:down|up)\d+|mid)_', name)
  return match[1] if match else name


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
    # Split before the stem: nothing wide is ever whole on a device.
    h = stem(layers.constrain_split(z.astype(dtype)))
    h = layers.constrain_split(h)
    h = body(unet, h, emb, text, mask, deterministic)

    h = nn.GroupNorm(unet.num_groups, dtype=dtype, name='norm_out')(h)
    out = layers.conv(
      3 * unet.stem_stride**2,
      zero=True,
      dtype=jnp.float32,
      name='out',
    )(nn.swish(h))
    return layers.whole(layers.depth_to_space(out, unet.stem_stride), 1, 2)


def _save_products(primitive, *args, **options):
  """A remat policy: keep what convolutions and dense layers compute.

  What is made of it element by element is cheap to make again. Products with
  a batch axis are attention's, whose logits are large.
  """
  if primitive is jax.lax.conv_general_dilated_p:
    return True
  dense = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return dense(primitive, *args, **options)


class Blocks(nn.Module):
  """What a level repeats: a residual block and, in the base, its attention.

  Maps h [B, H, W, C] to [B, H, W, dim]. With `skip`, that is concatenated
  first. In the network proper these are not modules of their own, so that
  parameters go by `down0_res0`; a scan's body is one.
  """

  unet: config.UNetConfig
  level: int
  attention: bool
  keep: bool

  @nn.compact
  def __call__(self, h, skip, emb, text, mask):
    if skip is not None:
      h = jnp.concatenate([h, skip], axis=-1)
    # Inside a loop nothing is there for common subexpressions to be with.
    res, attend, _ = _blocks(
      self.unet, True, emb, text, mask, prevent_cse=False
    )
    h = res(h, self.level, 'res')
    if self.attention:
      h = attend(h, self.level, 'attn')
    return h, h if self.keep else None


_ROOT = 2**-0.5


def _residual_scales(unet):
  """Factors of a block's sum and of its shortcut alone.

  The paper scales "skip connections" of the Efficient U-Net (appendix B.1),
  which its readers have taken for three things; nothing of the base's.
  """
  if unet.design == 'base':
    return 1.0, 1.0
  readings = {'sum': (_ROOT, 1.0), 'shortcut': (1.0, _ROOT), 'none': (1.0, 1.0)}
  return readings[unet.residual_scale]


def _blocks(unet, deterministic, emb, text, mask, prevent_cse=True):
  """The blocks of a level, ready to be called.

  Returns:
    res: (x, level, name, resample=None) -> x, a residual block.
    attend: (x, level, name) -> x, unchanged where the level has no attention.
    level_blocks: (x, way, level, skips=None) -> x and the output of each block
      of a level; `skips` are concatenated to their inputs, last one first.
  """
  dtype = jnp.dtype(unet.dtype)
  scale, shortcut_scale = _residual_scales(unet)

  def remat(block, level, static_argnums=()):
    policy = unet.at_level('remat_policy', level) if unet.remat else 'none'
    if policy == 'none':
      return block
    return nn.remat(
      block,
      static_argnums=static_argnums,
      prevent_cse=prevent_cse,
      policy=None if policy == 'full' else _save_products,
    )

  def res(x, level, name, resample=None):
    # `deterministic` (argument 3 of __call__, self included) is not traced.
    module = remat(layers.ResBlock, level, static_argnums=(3,))(
      unet.channels[level],
      unet.num_groups,
      scale,
      dtype,
      resample=resample,
      dropout=unet.dropout,
      shortcut_scale=shortcut_scale,
      shortcut=unet.shortcut,
      name=name,
    )
    return module(x, emb, deterministic)

  def attend(x, level, name):
    over_pixels = unet.self_attention[level]
    over_text = unet.text_attention[level]
    if not (over_pixels or over_text):
      return x
    attention = remat(layers.Attention, level)(
      over_pixels,
      over_text,
      unet.head_dim,
      unet.attention_expansion,
      unet.num_groups,
      scale,
      dtype,
      shortcut_scale=shortcut_scale,
      name=name,
    )
    return attention(x, text, mask)

  def scan(x, way, level, run, skips):
    attention = unet.design == 'base' and (
      unet.self_attention[level] or unet.text_attention[level]
    )
    keep = unet.design == 'base' and way == 'down'
    scanned = nn.scan(
      Blocks,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=len(run),
      metadata_params={nn.PARTITION_NAME: None},
    )
    name = repeats.name(way, level, run)
    module = scanned(unet, level, attention, keep, name=name)
    skips = jnp.stack([skips.pop() for _ in run]) if skips else None
    x, outs = module(x, skips, emb, text, mask)
    return x, list(outs) if keep else []

  def level_blocks(x, way, level, skips=None):
    outs = []
    for run in repeats.runs(unet, way, level):
      if unet.at_level('scan', level) and len(run) > 1:
        x, more = scan(x, way, level, run, skips)
        outs += more
        continue
      for i in run:
        if skips:
          x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = res(x, level, f'{way}{level}_res{i}')
        if unet.design == 'base':
          x = attend(x, level, f'{way}{level}_attn{i}')
        outs.append(x)
    return x, outs

  return res, attend, level_blocks


def base_body(unet, h, emb, text, mask, deterministic):
  """The ADM U-Net (paper, section 2.5 and appendix F.1).

  BigGAN blocks resample; every block of the way down is concatenated into its
  mirror on the way up, which has one block more; attention follows each block
  of the levels that have it.
  """
  res, attend, level_blocks = _blocks(unet, deterministic, emb, text, mask)
  last = len(unet.channels) - 1
  skips = [h]
  for level in range(last + 1):
    h, outs = level_blocks(h, 'down', level)
    skips += outs
    if level < last:
      h = res(h, level, f'down{level}_resample', 'down')
      skips.append(h)
  h = res(h, last, 'mid_res0')
  h = attend(h, last, 'mid_attn')
  h = res(h, last, 'mid_res1')
  for level in reversed(range(last + 1)):
    h, _ = level_blocks(h, 'up', level, skips)
    if level > 0:
      h = res(h, level, f'up{level}_resample', 'up')
  return h


def join_skip(h, skip, unet):
  """h with a long skip of the Efficient U-Net, added or concatenated."""
  if unet.long_skip_scale == 'skip':
    skip = skip * _ROOT
  if unet.long_skip == 'concat':
    return jnp.concatenate([h, skip], axis=-1)
  return (h + skip) * (_ROOT if unet.long_skip_scale == 'sum' else 1.0)


def efficient_body(unet, h, emb, text, mask, deterministic):
  """The Efficient U-Net (paper, appendix B.1).

  A DBlock halves the size first and a UBlock doubles it last, so that every
  other convolution runs at the smaller size. Long skips are added, and their
  sums scaled by 1/sqrt 2 as the blocks' own are (`long_skip_scale`,
  `residual_scale`). Each UBlock has one, also the deepest, whose skip is what
  it is given: there (h + h) / sqrt 2 is sqrt 2 h. Concatenated, a skip doubles
  the width that the first block of a UBlock is given, which its 1x1 shortcut
  takes back; the stem's reaches the output so. Doubling is a convolution to
  four times the channels and a rearrangement, which keeps it at the smaller
  size too.
  """
  _, attend, level_blocks = _blocks(unet, deterministic, emb, text, mask)
  conv = functools.partial(layers.conv, dtype=jnp.dtype(unet.dtype))
  skips = [h]
  for level, dim in enumerate(unet.channels):
    h = conv(dim, stride=2, name=f'down{level}_resample')(h)
    h = layers.constrain_split(h)
    h, _ = level_blocks(h, 'down', level)
    h = attend(h, level, f'down{level}_attn')
    skips.append(h)
  for level in reversed(range(len(unet.channels))):
    # At the deepest level this is h itself: sqrt 2 of it, by the defaults.
    h = join_skip(h, skips.pop(), unet)
    h, _ = level_blocks(h, 'up', level)
    h = attend(h, level, f'up{level}_attn')
    finer = unet.channels[max(level - 1, 0)]
    h = conv(4 * finer, name=f'up{level}_resample')(h)
    h = layers.constrain_split(layers.depth_to_space(h, 2))
  return join_skip(h, skips.pop(), unet)
