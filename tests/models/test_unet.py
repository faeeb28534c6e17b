"""The two U-Nets: wiring, conditioning, precision, memory."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.models import layers
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


def inputs(design, *, size=SIZE):
  """z, logsnr and condition of two images; the captions have 3 and 1 tokens."""
  mask = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
  text = structs.TextCond(normal(0, 2, 4, 6) * mask[..., None], mask)
  cond = structs.Cond(text)
  if NETS[design].lowres:
    cond = cond.replace(
      lowres=normal(1, 2, size, size, 3), aug_logsnr=jnp.array([0.0, 3.0])
    )
  return normal(2, 2, size, size, 3), jnp.array([-1.0, 2.0]), cond


def init(network, arguments):
  params = jax.jit(network.init)(jax.random.key(0), *arguments)['params']
  return sharding.unbox(params)


def value_and_grad(network):
  def loss(params, *arguments):
    out = network.apply({'params': params}, *arguments)
    return jnp.mean((out - normal(3, *out.shape)) ** 2)

  return jax.jit(jax.value_and_grad(loss))


@functools.cache
def trained(design):
  """A network's parameters after a few steps, and its gradients there.

  What is zero at first (last convolutions) hides a part of the network from
  the first steps.
  """
  arguments = inputs(design)
  step = value_and_grad(NETS[design])
  params = init(NETS[design], arguments)
  tx = optax.adam(0.02)
  opt_state = tx.init(params)
  for _ in range(4):
    _, grads = step(params, *arguments)
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
  return params, step(params, *arguments)


@functools.cache
def applied(design):
  """The trained network: (z, logsnr, cond) -> output, jitted."""
  params, _ = trained(design)
  return functools.partial(jax.jit(NETS[design].apply), {'params': params})


@BOTH
def test_every_parameter_learns(design):
  _, (_, grads) = trained(design)
  still = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree.leaves_with_path(grads)
    if not np.abs(leaf).max() > 1e-8
  ]
  assert not still


@BOTH
def test_output_is_zero_at_first(design):
  arguments = inputs(design)
  network = NETS[design]
  out = network.apply({'params': init(network, arguments)}, *arguments)
  np.testing.assert_array_equal(out, np.zeros((2, SIZE, SIZE, 3)))


def condition(design, **changes):
  z, logsnr, cond = inputs(design)
  return z, logsnr, cond.replace(**changes)


def changed_inputs(design):
  """By name, the inputs with one of them changed in the first image alone."""
  z, logsnr, cond = inputs(design)
  text = cond.text
  changed = {
    'z': (z.at[0, 2, 2].add(0.5), logsnr, cond),
    'logsnr': (z, logsnr.at[0].add(1.0), cond),
    'token': condition(
      design, text=text.replace(embed=text.embed.at[0, 1, 2].add(1.0))
    ),
    'mask': condition(
      design, text=text.replace(mask=text.mask.at[0, 2].set(False))
    ),
  }
  if NETS[design].lowres:
    lowres, aug_logsnr = cond.lowres, cond.aug_logsnr
    changed['lowres'] = condition(design, lowres=lowres.at[0, 2, 2].add(0.5))
    changed['aug'] = condition(design, aug_logsnr=aug_logsnr.at[0].add(1.0))
  return changed


@BOTH
def test_every_input_counts_and_only_for_its_image(design):
  apply = applied(design)
  out = apply(*inputs(design))
  for name, arguments in changed_inputs(design).items():
    moved = np.abs(apply(*arguments) - out)
    assert moved[0].max() > 1e-4, name
    assert moved[1].max() < 1e-5, name


@BOTH
def test_pooled_text_and_tokens_both_count(design):
  """Each way of the text, with the other cut off."""
  params, _ = trained(design)
  arguments = changed_inputs(design)['token']

  def moved(cut):
    kept = jax.tree.map_with_path(
      lambda path, leaf: leaf * (cut not in jax.tree_util.keystr(path)), params
    )
    apply = functools.partial(jax.jit(NETS[design].apply), {'params': kept})
    return np.abs(apply(*arguments) - apply(*inputs(design))).max()

  assert moved('text_pool') > 1e-5
  assert moved('text_value') > 1e-5
  assert moved('text_') == 0


@BOTH
def test_masked_tokens_do_not_count(design):
  text = inputs(design)[2].text
  noisy = jnp.where(text.mask[..., None], text.embed, 50.0)
  arguments = condition(design, text=text.replace(embed=noisy))
  apply = applied(design)
  np.testing.assert_allclose(
    apply(*arguments), apply(*inputs(design)), rtol=1e-3, atol=1e-5
  )


@BOTH
def test_a_caption_of_no_tokens_is_finite(design):
  text = inputs(design)[2].text
  nothing = structs.TextCond(0 * text.embed, jnp.zeros_like(text.mask))
  params, _ = trained(design)
  step = value_and_grad(NETS[design])
  found = step(params, *condition(design, text=nothing))
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@BOTH
@pytest.mark.parametrize('stride', [1, 2, 4])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_shapes_whatever_the_stem(design, stride, dtype):
  network = NETS[design].clone(
    unet=dataclasses.replace(NETS[design].unet, stem_stride=stride, dtype=dtype)
  )
  arguments = inputs(design, size=16)
  out, variables = jax.eval_shape(
    lambda: network.init_with_output(jax.random.key(0), *arguments)
  )
  assert out.shape == (2, 16, 16, 3) and out.dtype == jnp.float32
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32


def test_every_pixel_passes_a_strided_stem():
  """Whatever the stride, no pixel falls between the stem's windows."""
  for stride in (1, 2, 4):
    network = unet.UNet(dataclasses.replace(EFFICIENT, stem_stride=stride))
    z, logsnr, cond = inputs('base', size=16)
    shape = jax.eval_shape(network.init, jax.random.key(0), z, logsnr, cond)
    kernel = sharding.unbox(shape['params']['stem']['kernel'])
    seen = jax.vjp(
      lambda z, kernel=kernel, stride=stride: convolve(
        z, jnp.ones(kernel.shape), stride
      ),
      z,
    )[1]
    (weight,) = seen(jnp.ones((2, 16 // stride, 16 // stride, 8)))
    assert weight.min() > 0, stride


@BOTH
def test_the_size_is_not_in_the_parameters(design):
  """A net trained on crops runs on whole pictures."""
  params, _ = trained(design)
  arguments = inputs(design, size=2 * SIZE)
  out = jax.eval_shape(NETS[design].apply, {'params': params}, *arguments)
  assert out.shape == (2, 2 * SIZE, 2 * SIZE, 3)


@BOTH
def test_remat_changes_memory_alone(design):
  params, (loss, grads) = trained(design)
  network = NETS[design].clone(
    unet=dataclasses.replace(NETS[design].unet, remat=True)
  )
  arguments = inputs(design)
  step = value_and_grad(network)
  again, again_grads = step(params, *arguments)
  np.testing.assert_allclose(again, loss, rtol=1e-6)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    again_grads,
    grads,
  )
  assert 'remat' in str(step.trace(params, *arguments).jaxpr)


@BOTH
def test_bfloat16_is_close_to_float32(design):
  params, _ = trained(design)
  network = NETS[design].clone(
    unet=dataclasses.replace(NETS[design].unet, dtype='bfloat16')
  )
  arguments = inputs(design)
  apply = lambda *args: network.apply({'params': params}, *args)
  found = jax.jit(apply)(*arguments)
  expected = applied(design)(*arguments)
  assert found.dtype == jnp.float32
  error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
  assert 1e-5 < error < 0.05
  # Nothing but the last convolution is a float32 product.
  products = [
    line
    for line in str(jax.make_jaxpr(apply)(*arguments)).splitlines()
    if 'conv_general_dilated[' in line or 'dot_general[' in line
  ]
  wide = [line for line in products if 'bf16[' not in line.split('=')[0]]
  assert products and len(wide) <= 1 + sum('f32' in line for line in wide)


@BOTH
def test_dropout_works_in_training_alone(design):
  params, _ = trained(design)
  network = NETS[design].clone(
    unet=dataclasses.replace(NETS[design].unet, dropout=0.5)
  )
  arguments = inputs(design)

  @functools.partial(jax.jit, static_argnums=1)
  def apply(key, deterministic):
    return network.apply(
      {'params': params},
      *arguments,
      deterministic=deterministic,
      rngs={'dropout': key},
    )

  first, second = jax.random.split(jax.random.key(6))
  out = applied(design)(*arguments)
  np.testing.assert_allclose(apply(first, True), out, rtol=1e-5, atol=1e-6)
  assert np.abs(apply(first, False) - out).max() > 1e-2
  assert np.abs(apply(first, False) - apply(second, False)).max() > 1e-2


def convolve(h, kernel, stride=1):
  return jax.lax.conv_general_dilated(
    h,
    kernel,
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def at_first(design):
  """Parameters at initialisation, but for an output that shows the body.

  Returns them, the network's output, and `finish`: what stem, last norm and
  output make of a body.
  """
  network = NETS[design]
  arguments = inputs(design)
  params = init(network, arguments)
  params['out']['kernel'] = normal(7, *params['out']['kernel'].shape)
  z, _, cond = arguments
  if network.lowres:
    z = jnp.concatenate([z, cond.lowres], -1)

  def finish(body):
    h = body(convolve(z, params['stem']['kernel']))
    h = nn.GroupNorm(4).apply({'params': params['norm_out']}, h)
    return convolve(nn.swish(h), params['out']['kernel'])

  return params, network.apply({'params': params}, *arguments), finish


def test_wiring_of_the_base():
  """At first a residual block is its shortcut and attention is nothing.

  What is left is the paper's way of the skips: each block's output, and the
  resampled ones, concatenated in reverse into one block more on the way up.
  """
  params, found, finish = at_first('base')

  def skip(h, name):
    return h @ params[name]['skip']['kernel'] if 'skip' in params[name] else h

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
  """At first each residual block and attention is a scale of 1/sqrt 2."""
  params, found, finish = at_first('efficient')
  root = 2**-0.5

  def resample(h, name, stride=1):
    return convolve(h, params[name]['kernel'], stride)

  def body(h):
    skips = [h]
    # One block; then two and an attention.
    for level, sums in ((0, 1), (1, 3)):
      h = resample(h, f'down{level}_resample', 2) * root**sums
      skips.append(h)
    for level, sums in ((1, 3), (0, 1)):
      h = (h + skips.pop()) * root ** (1 + sums)
      h = layers.depth_to_space(resample(h, f'up{level}_resample'), 2)
    return (h + skips.pop()) * root

  np.testing.assert_allclose(found, finish(body), rtol=1e-3, atol=1e-3)


def test_every_convolution_of_the_efficient_is_at_the_smaller_size():
  """But the stem, the output, and the first of a DBlock, which halves."""
  network, arguments = NETS['efficient'], inputs('efficient')
  sizes = {}

  def note(next_function, args, kwargs, context):
    if isinstance(context.module, nn.Conv):
      sizes['/'.join(context.module.path)] = args[0].shape[1]
    return next_function(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(network.init, jax.random.key(0), *arguments)
  expected = {'stem': 8, 'out': 8, 'down0_resample': 8, 'down1_resample': 4}
  for name, size in sizes.items():
    assert size == expected.get(
      name, 2 if name[: name.find('_')][-1] == '1' else 4
    )


def test_attention_is_where_the_config_has_it():
  names = init(NETS['efficient'], inputs('efficient'))
  assert {name for name in names if 'attn' in name} == {
    'down1_attn',
    'up1_attn',
  }
  names = init(NETS['base'], inputs('base'))
  assert {name for name in names if 'attn' in name} == {
    f'down1_attn{i}' for i in range(2)
  } | {f'up1_attn{i}' for i in range(3)} | {'mid_attn'}
