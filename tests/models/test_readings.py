"""Other readings of the paper's Efficient U-Net: each is another network."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.models import layers
from imagen_jax.models import repeats
from imagen_jax.models import unet

NET = config.UNetConfig(
  design='efficient',
  channels=(8, 8),
  num_res_blocks=(1, 3),
  self_attention=(False, True),
  text_attention=(False, False),
  head_dim=8,
  embed_dim=16,
  num_groups=4,
  remat=False,
  dtype='float32',
)
CONCAT = {'long_skip': 'concat', 'long_skip_scale': 'skip'}
ROOT = 2**-0.5


def inputs():
  normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
  text = structs.TextCond(normal(0, 1, 3, 6), jnp.ones((1, 3), bool))
  return normal(1, 1, 8, 8, 3), jnp.array([0.5]), structs.Cond(text)


@functools.cache
def params_of(net):
  network = unet.UNet(net)
  boxed = jax.eval_shape(network.init, jax.random.key(0), *inputs())
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
    sharding.unbox(boxed['params']),
  )


def shapes_of(net):
  return jax.tree.map(lambda leaf: leaf.shape, params_of(net))


@functools.cache
def output(net):
  """Of the same parameters for all nets that have the same."""
  run = lambda params: unet.UNet(net).apply({'params': params}, *inputs())
  # What is compared is the wiring, not the machine code.
  options = {'xla_backend_optimization_level': 0}
  return np.asarray(jax.jit(run, compiler_options=options)(params_of(net)))


def change(net, **changes):
  """The outputs' distance, relative to the default's spread."""
  other = dataclasses.replace(net, **changes)
  assert shapes_of(other) == shapes_of(net)
  return np.abs(output(other) - output(net)).mean() / output(net).std()


@pytest.mark.parametrize(
  'changes',
  [
    {'residual_scale': 'shortcut'},
    {'residual_scale': 'none'},
    {'long_skip_scale': 'skip'},
    {'long_skip_scale': 'none'},
  ],
  ids=str,
)
def test_each_reading_of_the_scale_is_another_network(changes):
  """Of the same parameters; the last norm takes out what is a mere factor."""
  assert 0.01 < change(NET, **changes) < 2


@pytest.mark.parametrize(
  'scales', [(ROOT, 1.0), (1.0, ROOT), (1.0, 1.0)], ids=str
)
def test_the_sum_of_a_block(scales):
  x, h = np.float32([1.0, -2.0]), np.float32([0.5, 4.0])
  found = layers.residual_sum(x, h, *scales)
  np.testing.assert_allclose(found, scales[0] * (scales[1] * x + h), rtol=1e-6)


@pytest.mark.parametrize(
  'reading, scales',
  [
    ('sum', (ROOT, 1.0)),
    ('shortcut', (1.0, ROOT)),
    ('none', (1.0, 1.0)),
  ],
)
def test_the_scales_are_the_readings(reading, scales):
  """Those of every residual block, and of attention."""
  net = dataclasses.replace(NET, residual_scale=reading)
  assert unet._residual_scales(net) == scales
  found = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, (layers.ResBlock, layers.Attention)):
      module = context.module
      found.append((type(module), module.scale, module.shortcut_scale))
    return call(*args, **kwargs)

  network = unet.UNet(net)
  with nn.intercept_methods(note):
    jax.eval_shape(network.init, jax.random.key(0), *inputs())
  assert {kind for kind, *_ in found} == {layers.ResBlock, layers.Attention}
  assert {tuple(numbers) for _, *numbers in found} == {scales}
  # Of the base, which the paper scales nothing of.
  assert unet._residual_scales(config.UNetConfig()) == (1.0, 1.0)


def modules_of(net):
  """The modules that a network calls, by name; of each, one call."""
  found = {}

  def note(call, args, kwargs, context):
    found['/'.join(context.module.path)] = context.module
    return call(*args, **kwargs)

  network = unet.UNet(net)
  with nn.intercept_methods(note):
    jax.eval_shape(network.init, jax.random.key(0), *inputs())
  return found


@pytest.mark.parametrize('design', ['base', 'efficient'])
def test_heads_and_groups_are_the_configs(design):
  """Of every part: no shape of a parameter tells how many there are."""
  wide = {'head_dim': 4, 'embed_dim': 24, 'attention_expansion': 2}
  net = dataclasses.replace(
    NET, design=design, text_attention=(False, True), **wide
  )
  modules = modules_of(net)
  kinds = (layers.ResBlock, layers.Attention, layers.TextPool, nn.GroupNorm)
  of = {
    kind: [m for m in modules.values() if isinstance(m, kind)] for kind in kinds
  }
  assert all(of.values())
  for kind in (layers.Attention, layers.TextPool):
    assert {module.head_dim for module in of[kind]} == {4}
  assert {module.expansion for module in of[layers.Attention]} == {2}
  # Also that of the output.
  assert {module.num_groups for module in of[nn.GroupNorm]} == {4}
  assert 'norm_out' in modules


def test_heads_are_what_attention_is_given():
  """The pool's 24 channels as 6 heads of 4, attention's 8 as 2."""
  net = dataclasses.replace(
    NET, text_attention=(False, True), head_dim=4, embed_dim=24
  )
  heads = []
  attend, pool = layers.attention.attend, jax.nn.dot_product_attention

  def note(function):
    def noted(query, key, *rest, **options):
      heads.append((query.shape[-2:], key.shape[-2:]))
      return function(query, key, *rest, **options)

    return noted

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(layers.attention, 'attend', note(attend))
    patch.setattr(jax.nn, 'dot_product_attention', note(pool))
    modules_of(net)
  assert set(heads) == {((6, 4),) * 2, ((2, 4),) * 2}


@pytest.mark.parametrize(
  'changes, expected',
  [
    ({}, [ROOT * 5.0]),
    ({'long_skip_scale': 'skip'}, [2.0 + ROOT * 3.0]),
    ({'long_skip_scale': 'none'}, [5.0]),
    (CONCAT, [2.0, ROOT * 3.0]),
    ({'long_skip': 'concat', 'long_skip_scale': 'none'}, [2.0, 3.0]),
  ],
  ids=str,
)
def test_the_sum_of_a_long_skip(changes, expected):
  net = dataclasses.replace(NET, **changes)
  h, skip = (jnp.full((1, 1, 1, 1), value) for value in (2.0, 3.0))
  found = unet.join_skip(h, skip, net)[0, 0, 0]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_concatenated_skips_have_kernels_of_their_own():
  """Wider where one arrives, and there alone."""
  plain, wide = shapes_of(NET), shapes_of(dataclasses.replace(NET, **CONCAT))
  assert wide.keys() == plain.keys()
  different = {name for name in wide if wide[name] != plain[name]}
  assert different == {'up1_res0', 'up0_res0', 'norm_out', 'out'}
  assert wide['up1_res0']['skip']['kernel'] == (16, 8)
  assert wide['up1_res0']['conv_in']['kernel'] == (3, 3, 16, 8)
  assert wide['out']['kernel'] == (3, 3, 16, 3)


def test_concatenated_skips_are_scaled():
  concat = dataclasses.replace(NET, **CONCAT)
  assert 0.01 < change(concat, long_skip_scale='none') < 2


def test_the_first_block_behind_a_concatenated_skip_is_not_scanned():
  net = dataclasses.replace(NET, **CONCAT, scan=(True,))
  assert repeats.runs(net, 'up', 1) == [range(1), range(1, 3)]
  assert repeats.runs(net, 'down', 1) == [range(3)]
  network = unet.UNet(net)
  boxed = jax.eval_shape(network.init, jax.random.key(0), *inputs())
  scanned = jax.tree.map(
    lambda leaf: leaf.shape, sharding.unbox(boxed['params'])
  )
  plain = params_of(dataclasses.replace(net, scan=(False,)))
  stacked = jax.eval_shape(lambda params: repeats.stack(params, net), plain)
  assert jax.tree.map(lambda leaf: leaf.shape, stacked) == scanned


@pytest.mark.parametrize('scan', [False, True])
def test_shortcuts_are_drawn_always(scan):
  """One more 1x1 convolution in each residual block, and nothing else."""
  always = dataclasses.replace(NET, shortcut='always', scan=(scan,))
  found = shapes_of(dataclasses.replace(always, scan=(False,)))
  for name, shapes in shapes_of(NET).items():
    own = dict(found[name])
    if '_res' in name and 'resample' not in name:
      assert own.pop('skip') == {'kernel': (8, 8), 'bias': (8,)}, name
    assert own == shapes, name
  network = unet.UNet(always)
  boxed = jax.eval_shape(network.init, jax.random.key(0), *inputs())
  stacked = jax.eval_shape(
    lambda params: repeats.stack(params, always),
    params_of(dataclasses.replace(always, scan=(False,))),
  )
  shape = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
  assert shape(stacked) == shape(sharding.unbox(boxed['params']))


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'shortcut': 'never'}, "shortcut is 'never'; accepted: 'when_needed', "),
    (
      {'design': 'base', 'shortcut': 'always'},
      "shortcut is 'always' with .*design 'base'; accepted: 'when_needed', or",
    ),
    ({'residual_scale': 'skip'}, "residual_scale is 'skip'; accepted: 'sum'"),
    ({'long_skip': 'multiply'}, "long_skip is 'multiply'; accepted: 'add'"),
    ({'long_skip_scale': 'both'}, "long_skip_scale is 'both'; accepted: 'sum"),
    (
      {'long_skip': 'concat'},
      "long_skip_scale is 'sum' with .*long_skip 'concat'; accepted: 'skip'",
    ),
    (
      {'design': 'base', 'residual_scale': 'none'},
      "residual_scale is 'none' with .*design 'base'; accepted: 'sum', or st",
    ),
    (
      {'design': 'base', **CONCAT},
      "long_skip is 'concat' with .*design 'base'; accepted: 'add', or stage",
    ),
  ],
  ids=str,
)
def test_refuses_readings_that_cannot_be(changes, words):
  with pytest.raises(ValueError, match=words) as refusal:
    dataclasses.replace(NET, **changes)
  assert '\n' not in str(refusal.value)
