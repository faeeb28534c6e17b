"""How the blocks of the two U-Nets are joined, by hand."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from small_nets import NETS
from small_nets import apply_fn
from small_nets import convolve
from small_nets import inputs
from small_nets import params_of

from imagen_jax.models import layers


def conv(h, params, stride=1):
  h = convolve(h, params['kernel'], stride)
  return h + params['bias'][None, None, None]


def shortcuts(design):
  """A network whose every block is its shortcut, as it is at first.

  Returns its parameters, its output, and `finish`, which maps a body to what
  stem, last norm and last convolution make of it.
  """
  network = NETS[design]
  z, logsnr, cond = inputs(design)
  last = re.compile(r"conv_out'\]|attn\d*'\]\['out'\]")
  params = jax.tree.map_with_path(
    lambda path, leaf: leaf * (not last.search(jax.tree_util.keystr(path))),
    params_of(design),
  )
  found = apply_fn(network)(params, z, logsnr, cond)
  if network.lowres:
    z = jnp.concatenate([z, cond.lowres], -1)

  def finish(body):
    h = body(conv(z, params['stem']))
    h = nn.GroupNorm(4).apply({'params': params['norm_out']}, h)
    return conv(nn.swish(h), params['out'])

  return params, found, jax.jit(finish, static_argnums=0)


def test_wiring_of_the_base():
  """The paper's way of the skips.

  Each block's output, and the resampled ones, are concatenated in reverse
  into one block more on the way up.
  """
  params, found, finish = shortcuts('base')

  def skip(h, name):
    if 'skip' not in params[name]:
      return h
    dense = params[name]['skip']
    return h @ dense['kernel'] + dense['bias'][None, None, None]

  def body(h):
    skips = [h]
    h = skip(h, 'down0_res0')
    skips.append(h)
    h = layers.downsample(h)
    skips.append(h)
    for name in ('down1_res0', 'down1_res1'):
      h = skip(h, name)
      skips.append(h)
    for level, blocks in ((1, 3), (0, 2)):
      for i in range(blocks):
        h = skip(jnp.concatenate([h, skips.pop()], -1), f'up{level}_res{i}')
      if level:
        h = layers.upsample(h)
    assert not skips
    return h

  np.testing.assert_allclose(found, finish(body), rtol=1e-3, atol=1e-3)


def test_wiring_of_the_efficient():
  """Skips are added; a block that is its shortcut is a scale of 1/sqrt 2."""
  params, found, finish = shortcuts('efficient')
  root = 2**-0.5

  def resample(h, name, stride=1):
    return conv(h, params[f'{name}_resample'], stride)

  def body(h):
    skips = [h]
    # One block; then two and an attention.
    for level, sums in ((0, 1), (1, 3)):
      h = resample(h, f'down{level}', 2) * root**sums
      skips.append(h)
    for level, sums in ((1, 3), (0, 1)):
      h = (h + skips.pop()) * root ** (1 + sums)
      h = layers.depth_to_space(resample(h, f'up{level}'), 2)
    return (h + skips.pop()) * root

  np.testing.assert_allclose(found, finish(body), rtol=1e-3, atol=1e-3)


def test_every_convolution_of_the_efficient_is_at_the_smaller_size():
  """But the stem, the output, and the first of a DBlock, which halves."""
  sizes = {}

  def note(next_function, args, kwargs, context):
    if isinstance(context.module, nn.Conv):
      sizes['/'.join(context.module.path)] = args[0].shape[1]
    return next_function(*args, **kwargs)

  network, arguments = NETS['efficient'], inputs('efficient')
  with nn.intercept_methods(note):
    jax.eval_shape(network.init, jax.random.key(0), *arguments)
  larger = {'stem': 8, 'out': 8, 'down0_resample': 8, 'down1_resample': 4}
  assert larger.items() <= sizes.items()
  for name in sizes.keys() - larger.keys():
    level = re.match(r'(?:down|up)(\d)_', name)[1]
    assert sizes[name] == {'0': 4, '1': 2}[level], name


def test_attention_is_where_the_config_has_it():
  found = {
    design: {name for name in params_of(design) if 'attn' in name}
    for design in NETS
  }
  assert found['efficient'] == {'down1_attn', 'up1_attn'}
  down = {'down1_attn0', 'down1_attn1'}
  up = {'up1_attn0', 'up1_attn1', 'up1_attn2'}
  assert found['base'] == down | {'mid_attn'} | up
