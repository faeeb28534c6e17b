"""Blocks of a U-Net that are alike: which they are, and their stacked weights.

A run of them can be compiled once and looped over (`stage.unet.scan`). A state
always holds each block's parameters under the block's own name, whatever is
scanned: checkpoints and exports do not depend on it, and what an optimiser
does by parameter (Adafactor's relative step and clipping, Adam's weight decay
of kernels) stays what it was. A step stacks them where it starts.
"""

import jax
import jax.numpy as jnp

from imagen_jax import config


def runs(unet: config.UNetConfig, way: str, level: int) -> list[range]:
  """The blocks of a level, in order, as runs whose parameters are alike.

  Blocks differ where their inputs' widths do: behind a change of width; on the
  way up of the base, whose blocks are given skips of two widths; and where the
  Efficient U-Net's first is given a concatenated skip.

  Args:
    unet: the network.
    way: 'down' or 'up'.
    level: of `unet.channels`.
  """
  count, dim = unet.num_res_blocks[level], unet.channels[level]
  last = len(unet.channels) - 1
  finer, coarser = unet.channels[max(level - 1, 0)], min(level + 1, last)
  if unet.design == 'efficient':
    joined = way == 'up' and unet.long_skip == 'concat'
    widths = [(dim, dim) if joined else (dim,)] + [(dim,)] * (count - 1)
  elif way == 'down':
    widths = [(finer,)] + [(dim,)] * (count - 1)
  else:
    from_below = [unet.channels[coarser]] + [dim] * count
    widths = list(zip(from_below, [dim] * count + [finer]))
  starts = [
    i for i in range(len(widths)) if widths[i] != widths[i - 1] or not i
  ]
  return [range(*pair) for pair in zip(starts, [*starts[1:], len(widths)])]


def stacked_runs(unet: config.UNetConfig):
  """Every run that is scanned, as (stacked name, {part: names of its blocks}).

  A part is 'res' or 'attn': the base has attention behind each block.
  """
  for level in range(len(unet.channels)):
    if not unet.at_level('scan', level):
      continue
    attends = unet.self_attention[level] or unet.text_attention[level]
    parts = ['res', 'attn'] if attends and unet.design == 'base' else ['res']
    for way in ('down', 'up'):
      for run in runs(unet, way, level):
        if len(run) > 1:
          yield (
            name(way, level, run),
            {part: [f'{way}{level}_{part}{i}' for i in run] for part in parts},
          )


def name(way: str, level: int, run: range) -> str:
  """Name of the module that a scanned run is."""
  return f'{way}{level}_blocks{run[0]}to{run[-1]}'


def stack(params: dict, unet: config.UNetConfig) -> dict:
  """Parameters of the network without scans, as the one with them has them."""
  params = dict(params)
  for stacked, parts in stacked_runs(unet):
    params[stacked] = {
      part: jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(params.pop(n) for n in names)
      )
      for part, names in parts.items()
    }
  return params


def unstack(params: dict, unet: config.UNetConfig) -> dict:
  """The inverse of `stack`."""
  params = dict(params)
  for stacked, parts in stacked_runs(unet):
    trees = params.pop(stacked)
    for part, names in parts.items():
      for i, each in enumerate(names):
        params[each] = jax.tree.map(lambda leaf: leaf[i], trees[part])  # noqa: B023
  return params
