"""What a stage is made of and costs, from shapes alone."""

import collections
import dataclasses
import math
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp

from imagen_jax import config as config_lib
from imagen_jax import flops
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.models import unet as unet_lib
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


@dataclasses.dataclass(frozen=True)
class Description:
  """Of one stage.

  Attributes:
    parameters: by module.
    text_parameters: those that only text has: its pooling, keys and values.
    forward: operations of one image's way through the network, by module.
    step: operations of one image in a training step.
    remat_step: the same with what the config rematerialises done twice.
    kept: bytes of activations that an image leaves for the backward pass.
  """

  parameters: dict[str, int]
  text_parameters: int
  forward: dict[str, int]
  step: int
  remat_step: int
  kept: int


def _place(module):
  """Sorts modules in the order that a picture passes them."""
  order = ('time', 'aug', 'text_positions', 'text_pool', 'stem', 'down', 'mid')
  order += ('up', 'norm_out', 'out')
  stem, number = re.fullmatch(r'(\D+)(\d*)', module).groups()
  number = int(number or 0)
  return order.index(stem), -number if stem == 'up' else number


def parameters(config: config_lib.Config) -> dict[tuple[str, ...], int]:
  """Numbers in each parameter of the stage's network, by its path."""
  shapes = sharding.unbox(state_lib.abstract_params(config))
  return {
    tuple(key.key for key in path): math.prod(leaf.shape)
    for path, leaf in jax.tree.leaves_with_path(shapes)
  }


def describe(config: config_lib.Config) -> Description:
  """Counts the config's stage; takes a while to trace, and computes nothing."""
  stage = config.stage
  sizes = parameters(config)
  by_module = collections.Counter()
  for path, size in sizes.items():
    by_module[unet_lib.module_of(path[0])] += size
  return Description(
    parameters={m: by_module[m] for m in sorted(by_module, key=_place)},
    text_parameters=sum(
      size for path, size in sizes.items() if 'text' in '/'.join(path)
    ),
    forward=_forward(config),
    step=_step(_with_unet(config, remat=False)),
    remat_step=_step(config) if stage.unet.remat else 0,
    kept=_kept(config),
  )


def state_bytes(config: config_lib.Config) -> dict[str, int]:
  """Bytes of a run's state, on all devices together, by what they are of."""
  params = _params(config)
  moments = jax.eval_shape(optimizer.make_optimizer(config).init, params)
  size = lambda tree: sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
  )
  averages = 1 + len(config.train.ema_lengths)
  return {
    'parameters': size(params),
    'averages': averages * size(params),
    'optimiser': size(moments),
  }


def _with_unet(config, **changes):
  stage = config.stage
  unet = dataclasses.replace(stage.unet, **changes)
  stage = dataclasses.replace(stage, unet=unet)
  return dataclasses.replace(config, stage=stage)


def _params(config):
  return sharding.unbox(state_lib.abstract_params(config))


def _forward(config):
  config = _with_unet(config, remat=False)
  network = state_lib.make_network(config.stage)
  params = _params(config)
  jaxpr = jax.make_jaxpr(lambda p, x: network.apply({'params': p}, *x))(
    params, state_lib.example_inputs(config)
  )
  total = collections.Counter()
  for scope, count in flops.products(jaxpr.jaxpr).items():
    (part,) = [part for part in scope.split('/') if part in params][:1]
    total[unet_lib.module_of(part)] += count
  return dict(total)


def _batch(config, size):
  """Shapes of a batch of so many."""
  pixels, lowres = config.stage.image_size, config.stage.lowres_size
  image = lambda n: jax.ShapeDtypeStruct((size, n, n, 3), jnp.float32)
  _, _, cond = state_lib.example_inputs(config, size)
  return structs.Batch(image(pixels), cond.text, lowres and image(lowres))


def _loss(config):
  keys = step_lib.step_keys(0, 0)
  return lambda params, batch: step_lib.loss_fn(params, batch, keys, config)[0]


def _step(config):
  jaxpr = jax.make_jaxpr(jax.grad(_loss(config)))(
    _params(config), _batch(config, 1)
  )
  return flops.products(jaxpr.jaxpr).total()


def _kept(config):
  # The difference leaves out what is once a batch: kernels in bfloat16.
  one, two = (
    flops.kept_bytes(_loss(config), _params(config), _batch(config, size))
    for size in (1, 2)
  )
  return two - one


def rows(path: pathlib.Path) -> list[tuple[str, int | None]]:
  """Every row of a config file as (FILE or FILE:ROW, the paper's figure).

  The figure is from the file's `PAPER_PARAMETERS`; None where it has none.
  """
  module = runpy.run_path(str(path))
  figures = module.get('PAPER_PARAMETERS', {})
  names = module.get('ROWS')
  if names is None:
    return [(str(path), figures.get(''))]
  return [(f'{path}:{row}', figures.get(row)) for row in names]


def table(rows: list[list[str]]) -> str:
  """Rows as lines, the first column to the left and the others to the right."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = []
  for first, *rest in rows:
    cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
    lines.append('  '.join([first.ljust(widths[0]), *cells]).rstrip())
  return '\n'.join(lines)


def parameter_table(folder: str) -> str:
  """The parameters of every config in a folder, beside the paper's figures.

  Raises:
    ValueError: where there is no config in the folder.
  """
  paths = sorted(pathlib.Path(folder).glob('*.py'))
  if not paths:
    raise ValueError(
      f'--configs is {folder!r}; accepted: a folder of configs, such as configs'
    )
  lines = [['config', 'parameters', 'without text', 'paper', 'ours/paper']]
  for path in paths:
    for spec, paper in rows(path):
      sizes = parameters(config_lib.load(spec))
      total = sum(sizes.values())
      text = sum(n for path, n in sizes.items() if 'text' in '/'.join(path))
      beside = ['-', '-']
      if paper:
        beside = [f'{paper:,}', f'{total / paper:.2f}']
      lines.append([spec, f'{total:,}', f'{total - text:,}', *beside])
  return table(lines)


def report(config: config_lib.Config, paper: int | None) -> str:
  """`describe` as text, with the paper's figure of parameters beside it."""
  found, stage = describe(config), config.stage
  total = sum(found.parameters.values())
  forward = sum(found.forward.values())
  lines = [['module', 'parameters', 'share', 'GFLOPs forward']]
  for module, count in found.parameters.items():
    operations = found.forward.get(module, 0) / 1e9
    lines.append(
      [module, f'{count:,}', f'{count / total:.1%}', f'{operations:,.2f}']
    )
  lines.append(['total', f'{total:,}', '100.0%', f'{forward / 1e9:,.2f}'])
  size, batch = stage.image_size, config.train.batch_size
  facts = [['without text', f'{total - found.text_parameters:,} parameters']]
  if paper:
    facts.append(
      ['paper', f'{paper:,} parameters (ours: {total / paper:.2f} of it)']
    )
  facts += [
    ['forward, an image', f'{forward / 1e9:,.2f} GFLOPs'],
    ['training step, an image', f'{found.step / 1e9:,.2f} GFLOPs'],
  ]
  if stage.unet.remat:
    again = f'{found.remat_step / 1e9:,.2f} GFLOPs'
    facts.append(['  with rematerialisation', again])
  facts += [
    [f'training step of {batch:,}', f'{batch * found.step / 1e12:,.2f} TFLOPs'],
    ['activations kept, an image', f'{found.kept / 2**20:,.1f} MiB'],
    [f'  of {batch:,} images', f'{batch * found.kept / 2**30:,.1f} GiB'],
  ]
  state = state_bytes(config)
  parts = ', '.join(f'{name} {n / 2**30:,.1f}' for name, n in state.items())
  whole = sum(state.values()) / 2**30
  facts.append(['state, over all devices', f'{whole:,.1f} GiB ({parts})'])
  title = (
    f'{stage.name}: {stage.unet.design} U-Net at {size} pixels, text of '
    f'{config.text.max_length} x {config.text.embed_dim}'
  )
  width = max(len(name) for name, _ in facts)
  listed = '\n'.join(f'{name.ljust(width)}  {fact}' for name, fact in facts)
  return f'{title}\n\n{table(lines)}\n\n{listed}'
