"""The two U-Nets: conditioning, precision, memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_nets import BOTH
from small_nets import NETS
from small_nets import SIZE
from small_nets import apply
from small_nets import apply_fn
from small_nets import convolve
from small_nets import inputs
from small_nets import normal
from small_nets import params_of
from small_nets import shaken
from small_nets import with_unet

from imagen_jax import sharding
from imagen_jax import structs


@functools.cache
def value_and_grad(network):
  def loss(params, *arguments):
    out = network.apply({'params': params}, *arguments)
    return jnp.mean((out - normal(3, *out.shape)) ** 2)

  return jax.jit(jax.value_and_grad(loss))


@BOTH
def test_every_parameter_learns(design):
  _, grads = value_and_grad(NETS[design])(params_of(design), *inputs(design))
  still = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree.leaves_with_path(grads)
    if not np.abs(leaf).max() > 1e-8
  ]
  assert not still


@BOTH
def test_the_last_convolution_is_zero_at_first(design):
  network = NETS[design]

  @jax.jit
  def init(key, *arguments):
    # The rest is not asked for, so not computed.
    return network.init(key, *arguments)['params']['out']['kernel']

  kernel = init(jax.random.key(0), *inputs(design))
  np.testing.assert_array_equal(sharding.unbox(kernel), np.zeros((3, 3, 8, 3)))


def changed_inputs(design):
  """By name, the inputs with one of them changed in the first image alone."""
  z, logsnr, cond = inputs(design)
  token = cond.text.replace(embed=cond.text.embed.at[0, 1, 2].add(1.0))
  fewer = cond.text.replace(mask=cond.text.mask.at[0, 2].set(False))
  changed = {
    'z': (z.at[0, 2, 2].add(0.5), logsnr, cond),
    'logsnr': (z, logsnr.at[0].add(1.0), cond),
    'token': inputs(design, text=token),
    'mask': inputs(design, text=fewer),
  }
  if NETS[design].lowres:
    lowres, aug_logsnr = cond.lowres, cond.aug_logsnr
    changed['lowres'] = inputs(design, lowres=lowres.at[0, 2, 2].add(0.5))
    changed['aug'] = inputs(design, aug_logsnr=aug_logsnr.at[0].add(1.0))
  return changed


@BOTH
def test_every_input_counts_and_only_for_its_image(design):
  out = apply(design, *inputs(design))
  for name, arguments in changed_inputs(design).items():
    moved = np.abs(apply(design, *arguments) - out)
    assert moved[0].max() > 1e-3, name
    assert moved[1].max() < 1e-5, name


@BOTH
def test_pooled_text_and_tokens_both_count(design):
  """Each way of the text, with the other cut off."""
  run = apply_fn(NETS[design])

  def moved(cut):
    kept = jax.tree.map_with_path(
      lambda path, leaf: leaf * (cut not in jax.tree_util.keystr(path)),
      params_of(design),
    )
    outs = [
      run(kept, *arguments)
      for arguments in (inputs(design), changed_inputs(design)['token'])
    ]
    return np.abs(outs[1] - outs[0]).max()

  assert moved('text_pool') > 1e-3
  assert moved('text_value') > 1e-3
  assert moved('text_') == 0


@BOTH
def test_masked_tokens_do_not_count(design):
  text = inputs(design)[2].text
  noisy = jnp.where(text.mask[..., None], text.embed, 50.0)
  found = apply(design, *inputs(design, text=text.replace(embed=noisy)))
  expected = apply(design, *inputs(design))
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@BOTH
def test_a_caption_of_no_tokens_is_finite(design):
  text = inputs(design)[2].text
  nothing = structs.TextCond(0 * text.embed, jnp.zeros_like(text.mask))
  arguments = params_of(design), *inputs(design, text=nothing)
  found = value_and_grad(NETS[design])(*arguments)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@BOTH
@pytest.mark.parametrize('stride', [1, 2, 4, 8])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_shapes_whatever_the_stem(design, stride, dtype):
  network = with_unet(design, stem_stride=stride, dtype=dtype)
  out, variables = jax.eval_shape(
    network.init_with_output, jax.random.key(0), *inputs(design, size=32)
  )
  assert out.shape == (2, 32, 32, 3) and out.dtype == jnp.float32
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32


@pytest.mark.parametrize('stride', [1, 2, 4, 8])
def test_no_pixel_falls_between_the_stems_windows(stride):
  network = with_unet('base', stem_stride=stride)
  arguments = inputs('base', size=16)
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  kernel = sharding.unbox(shapes)['params']['stem']['kernel']
  stem = lambda z: convolve(z, jnp.ones(kernel.shape), stride).sum()
  assert jax.grad(stem)(arguments[0]).min() > 0


@pytest.mark.parametrize('coordinates, channels', [(False, 3), (True, 5)])
def test_coordinates_enter_at_the_stem(coordinates, channels):
  network = with_unet('base', coordinates=coordinates)
  stem = shaken(network, 'base')['stem']['kernel']
  assert stem.shape == (3, 3, channels, 8)


@pytest.mark.parametrize('positions', [False, True])
def test_text_positions_tell_the_order_of_tokens(positions):
  network = with_unet('base', text_positions=positions)
  run, params = apply_fn(network), shaken(network, 'base')
  text = inputs('base')[2].text
  turned = text.replace(embed=text.embed.at[0, :2].set(text.embed[0, 1::-1]))
  moved = run(params, *inputs('base', text=turned)) - run(
    params, *inputs('base')
  )
  assert (np.abs(moved).max() > 1e-3) == positions


@BOTH
def test_the_size_is_not_in_the_parameters(design):
  """A net trained on crops runs on whole pictures."""
  arguments = params_of(design), *inputs(design, size=2 * SIZE)
  out = jax.eval_shape(apply_fn(NETS[design]), *arguments)
  assert out.shape == (2, 2 * SIZE, 2 * SIZE, 3)


# The next three are a line of `_blocks` each, whatever the design.
def test_remat_changes_memory_alone():
  arguments = params_of('efficient'), *inputs('efficient')
  plain = value_and_grad(NETS['efficient'])
  step = value_and_grad(with_unet('efficient', remat=True))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
    step(*arguments),
    plain(*arguments),
  )
  assert 'remat' in str(step.trace(*arguments).jaxpr)
  assert 'remat' not in str(plain.trace(*arguments).jaxpr)


def test_bfloat16_is_close_to_float32():
  run = apply_fn(with_unet('efficient', dtype='bfloat16'))
  arguments = params_of('efficient'), *inputs('efficient')
  found, expected = run(*arguments), apply('efficient', *arguments[1:])
  assert found.dtype == jnp.float32
  error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
  assert 1e-4 < error < 0.05


def test_bfloat16_is_in_every_product_but_the_last():
  run = apply_fn(with_unet('efficient', dtype='bfloat16'))
  jaxpr = run.trace(params_of('efficient'), *inputs('efficient')).jaxpr
  convolutions = re.findall(
    r'(\w+)\[[\d,]*\] = conv_general_dilated', str(jaxpr)
  )
  assert set(convolutions[:-1]) == {'bf16'} and convolutions[-1] == 'f32'


def test_dropout_works_in_training_alone():
  network = with_unet('base', dropout=0.5)
  arguments = params_of('base'), *inputs('base')

  @jax.jit
  def drop(key, params, *args):
    return network.apply(
      {'params': params}, *args, deterministic=False, rngs={'dropout': key}
    )

  first, second = jax.random.split(jax.random.key(6))
  once = drop(first, *arguments)
  assert np.abs(once - drop(second, *arguments)).max() > 1e-2
  out = apply('base', *arguments[1:])
  assert np.abs(once - out).max() > 1e-2
  np.testing.assert_allclose(apply_fn(network)(*arguments), out, atol=1e-5)
