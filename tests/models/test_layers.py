"""The U-Nets' layers, one at a time."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from layer_runs import F32
from layer_runs import PREFIX
from layer_runs import normal
from layer_runs import run
from layer_runs import shaken
from layer_runs import text
import numpy as np
import pytest
from small_nets import convolve

from imagen_jax.models import layers


def test_depth_to_space_lays_channels_out_in_rows():
  x = jnp.arange(4.0).reshape(1, 1, 1, 4)
  expected = jnp.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 2, 2, 1)
  np.testing.assert_array_equal(layers.depth_to_space(x, 2), expected)


def test_depth_to_space_keeps_neighbours_together():
  x = jnp.arange(2 * 3 * 3 * 8.0).reshape(2, 3, 3, 8)
  y = np.asarray(layers.depth_to_space(x, 2))
  assert y.shape == (2, 6, 6, 2)
  for row, column, part in np.ndindex(3, 3, 4):
    np.testing.assert_array_equal(
      y[:, 2 * row + part // 2, 2 * column + part % 2],
      x[:, row, column, 2 * part : 2 * part + 2],
    )


def test_downsample_is_the_mean_and_upsample_its_inverse():
  x = normal(0)
  half = layers.downsample(x)
  np.testing.assert_allclose(
    half[:, 1, 0], x[:, 2:4, 0:2].mean((1, 2)), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    layers.downsample(layers.upsample(x)), x, rtol=1e-6
  )
  twice = layers.upsample(x)
  np.testing.assert_array_equal(twice[:, 2:4, 6:8, 0].std((1, 2)), np.zeros(2))


def test_with_coordinates_adds_row_and_column():
  x = normal(0, (2, 3, 5, 4))
  found = layers.with_coordinates(x)
  np.testing.assert_array_equal(found[..., :4], x)
  np.testing.assert_allclose(found[1, :, 4, 4], [-1, 0, 1], atol=1e-6)
  columns = [-1, -0.5, 0, 0.5, 1]
  np.testing.assert_allclose(found[0, 2, :, 5], columns, atol=1e-6)
  assert np.all(found[:, 0, :, 4] == -1) and np.all(found[:, :, 0, 5] == -1)
  assert layers.with_coordinates(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_embed_logsnr_is_of_cosine_time():
  t = np.linspace(0.05, 0.95, 19)
  logsnr = jnp.asarray(-2 * np.log(np.tan(0.5 * np.pi * t)), F32)
  found = jax.jit(layers.embed_logsnr, static_argnums=1)(logsnr, 6)
  assert found.shape == (19, 6) and found.dtype == F32
  angles = 1000 * t[:, None] * np.array([1.0, 1e-2, 1e-4])
  expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_embed_logsnr_tells_levels_apart():
  # Beyond the bounds all are one.
  logsnr = jnp.array([-90.0, -20.0, -12.0, -6.0, 0.0, 6.0, 12.0, 20.0, 90.0])
  found = jax.jit(layers.embed_logsnr, static_argnums=1)(logsnr, 64)
  apart = np.linalg.norm(found[1:] - found[:-1], axis=1)
  np.testing.assert_array_equal(apart[[0, -1]], 0)
  assert np.all(apart[1:-1] > 0.05)


@pytest.mark.parametrize('dim', [8, 132])
def test_level_embedding_takes_any_width(dim):
  module = layers.LevelEmbedding(dim, F32)
  logsnr = jnp.array([-20.0, 1.0])
  variables = shaken(module, logsnr)
  assert jax.eval_shape(module.apply, variables, logsnr).shape == (2, dim)


def test_text_positions_tell_places_apart():
  module = layers.TextPositions(F32)
  embed = jnp.broadcast_to(normal(0, (2, 1, 6)), (2, 5, 6))
  variables = shaken(module, embed)
  found = run(module, variables, embed)
  assert found.shape == (2, 5, 6)
  table = variables['params']['table']
  np.testing.assert_allclose(
    found - found[:, :1],
    jnp.broadcast_to(table - table[:1], (2, 5, 6)),
    atol=1e-5,
  )


@pytest.fixture(scope='module')
def pool():
  module = layers.TextPool(12, 4, F32)
  params = shaken(module, *text(PREFIX))
  return jax.jit(functools.partial(module.apply, params))


def test_text_pool_ignores_what_is_masked(pool):
  embed, mask = text(PREFIX)
  found = pool(embed, mask)
  assert found.shape == (2, 12)
  noisy = jnp.where(mask[..., None], embed, 100.0)
  np.testing.assert_allclose(pool(noisy, mask), found, rtol=1e-5)
  # And nothing else.
  changed = pool(embed.at[0, 2, 0].add(1.0), mask)
  assert np.abs(changed - found)[0].max() > 1e-3
  np.testing.assert_allclose(changed[1], found[1], rtol=1e-6)


def test_text_pool_of_one_token_is_its_value(pool):
  """Attention over one token has nothing to weigh."""
  embed, mask = text(PREFIX)
  once = pool(embed[:, :1], mask[:, :1])
  repeated = pool(jnp.repeat(embed[:, :1], 5, 1), jnp.ones_like(mask))
  np.testing.assert_allclose(once, repeated, rtol=1e-4, atol=1e-5)


def test_text_pool_is_its_formula():
  """By hand, in NumPy: one query, LayerNorm before and after."""
  module = layers.TextPool(12, 4, F32)
  embed, mask = text(PREFIX)
  variables = shaken(module, embed, mask)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables['params'])
  embed, mask = np.asarray(embed, np.float64), np.asarray(mask)

  def norm(h, name):
    h = h - h.mean(-1, keepdims=True)
    h = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)
    return h * p[name]['scale'] + p[name]['bias']

  tokens = norm(embed, 'norm_in')
  heads = lambda h, name: (h @ p[name]['kernel']).reshape(2, -1, 3, 4)
  mean = np.stack([t[m].mean(0) for t, m in zip(tokens, mask)])
  query = heads((mean + p['query'])[:, None], 'to_query')
  key, value = heads(tokens, 'to_key'), heads(tokens, 'to_value')
  logits = np.einsum('bqnk,blnk->bnql', query, key) / np.sqrt(4)
  weights = np.exp(logits) * mask[:, None, None]
  weights /= weights.sum(-1, keepdims=True)
  y = np.einsum('bnql,blnk->bqnk', weights, value).reshape(2, 12)
  out = p['out']
  expected = norm(y, 'norm_out') @ out['kernel'] + out['bias']

  found = jax.jit(module.apply)(variables, *text(PREFIX))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_text_pool_of_nothing_is_the_same_for_every_caption(pool):
  mask = jnp.zeros((2, 5), bool)
  embed = normal(7, (2, 5, 6))

  def total(embed):
    pooled = pool(embed, mask)
    return pooled.sum(), pooled

  slope, found = jax.jit(jax.grad(total, has_aux=True))(embed)
  assert np.all(np.isfinite(found))
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(slope, np.zeros((2, 5, 6)))


def block(**options):
  options = {'dim': 8, 'num_groups': 4, 'scale': 0.5, 'dtype': F32} | options
  return layers.ResBlock(**options)


@pytest.mark.parametrize('resample, size', [(None, 4), ('down', 2), ('up', 8)])
@pytest.mark.parametrize('dim', [8, 12])
def test_res_block_shapes(resample, size, dim):
  module = block(resample=resample, dim=dim)
  inputs = normal(3), normal(4, (2, 6))
  found = jax.eval_shape(module.apply, shaken(module, *inputs), *inputs)
  assert found.shape == (2, size, size, dim)


@pytest.mark.parametrize('resample', [None, 'down', 'up'])
def test_res_block_starts_as_its_shortcut(resample):
  """Its last convolution is zero at first."""
  module = block(resample=resample, scale=0.7)
  resize = {None: lambda y: y, 'down': layers.downsample, 'up': layers.upsample}
  x = normal(3)
  init = jax.jit(module.init_with_output)
  found, _ = init(jax.random.key(0), x, normal(4, (2, 6)))
  np.testing.assert_allclose(found, 0.7 * resize[resample](x), rtol=1e-6)


def by_hand(variables, x, emb, resize, drop=lambda h: h):
  """A block of 4 groups and scale 0.5, in NumPy, but for its convolutions."""
  p = jax.tree.map(np.asarray, variables['params'])
  x, emb = np.asarray(x), np.asarray(emb)

  def norm(h, params):
    y = h.reshape(2, -1, 4, 2)
    y = (y - y.mean((1, 3), keepdims=True)) / y.std((1, 3), keepdims=True)
    return y.reshape(h.shape) * params['scale'] + params['bias']

  def conv(h, params):
    return np.asarray(convolve(h, params['kernel'])) + params['bias']

  swish = lambda h: h / (1 + np.exp(-h))
  film = swish(emb) @ p['modulation']['kernel'] + p['modulation']['bias']
  scale, shift = film[:, None, None, :8], film[:, None, None, 8:]
  h = conv(resize(swish(norm(x, p['norm_in']))), p['conv_in'])
  h = drop(swish(norm(h, p['norm_out']) * (1 + scale) + shift))
  x = resize(x)
  if 'skip' in p:
    x = x @ p['skip']['kernel'] + p['skip']['bias']
  return 0.5 * (x + conv(h, p['conv_out']))


RESIZE = {
  None: lambda h: h,
  'down': lambda h: h.reshape(2, 2, 2, 2, 2, 8).mean((2, 4)),
  'up': lambda h: h.repeat(2, 1).repeat(2, 2),
}


@pytest.mark.parametrize(
  'resample, shortcut',
  [
    (None, 'when_needed'),
    ('down', 'when_needed'),
    ('up', 'when_needed'),
    (None, 'always'),
  ],
)
def test_res_block_is_the_papers(resample, shortcut):
  """Norm, swish, conv, norm, scale and shift, swish, conv, by hand.

  A BigGAN block resamples before its first convolution; the Efficient U-Net's
  may have a 1x1 convolution around both.
  """
  module = block(resample=resample, shortcut=shortcut)
  x, emb = normal(3), normal(4, (2, 6))
  variables = shaken(module, x, emb)
  assert ('skip' in variables['params']) == (shortcut == 'always')
  expected = by_hand(variables, x, emb, RESIZE[resample])
  found = run(module, variables, x, emb)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_dropout_is_before_the_second_convolution():
  """Of what it is given a part is zero, and the rest is scaled up."""
  module = block(dropout=0.5)
  x, emb = normal(3), normal(4, (2, 6))
  variables = shaken(module, x, emb)
  seen = []

  def note(call, args, kwargs, context):
    if context.module.name == 'conv_out':
      seen.append(args[0])
    return call(*args, **kwargs)

  def apply(key):
    with nn.intercept_methods(note):
      found = module.apply(variables, x, emb, False, rngs={'dropout': key})
    return found, seen.pop()

  found, given = jax.jit(apply)(jax.random.key(5))
  kept = np.asarray(given) != 0
  assert 0.35 < kept.mean() < 0.65
  expected = by_hand(variables, x, emb, RESIZE[None], lambda h: 2 * h * kept)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_dropout_is_off_where_deterministic():
  module = block(dropout=0.5)
  x, emb = normal(3), normal(4, (2, 6))
  variables = shaken(module, x, emb)

  @jax.jit
  def drop(key):
    return module.apply(variables, x, emb, False, rngs={'dropout': key})

  first, second = jax.random.split(jax.random.key(5))
  assert np.abs(drop(first) - drop(second)).max() > 1e-2
  without = run(block(), variables, x, emb)
  np.testing.assert_allclose(run(module, variables, x, emb), without, 1e-6)
