"""The attention block of the U-Nets: what it sees, and as what it starts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from layer_runs import F32
from layer_runs import PREFIX
from layer_runs import SHAPE
from layer_runs import normal
from layer_runs import run
from layer_runs import shaken
from layer_runs import text
import numpy as np
import pytest

from imagen_jax.models import layers


def attention(over_pixels, over_text, **options):
  return layers.Attention(
    over_pixels=over_pixels,
    over_text=over_text,
    num_groups=4,
    dtype=F32,
    **{'head_dim': 4, 'expansion': 1, 'scale': 0.5} | options,
  )


WAYS = [(True, False), (False, True), (True, True)]


def test_attention_starts_as_its_shortcut():
  module = attention(True, True, scale=0.7)
  x = normal(6)
  init = jax.jit(module.init_with_output)
  found, _ = init(jax.random.key(0), x, *text(PREFIX))
  np.testing.assert_allclose(found, 0.7 * x, rtol=1e-6)


@pytest.mark.parametrize('way', WAYS)
def test_attention_sees_what_it_should(way):
  over_pixels, over_text = way
  module = attention(*way)
  x = normal(6)
  embed, mask = text(PREFIX)
  apply = functools.partial(module.apply, shaken(module, x, embed, mask))
  run = jax.jit(apply)
  found = run(x, embed, mask)

  noisy = jnp.where(mask[..., None], embed, 100.0)
  np.testing.assert_allclose(run(x, noisy, mask), found, rtol=1e-4, atol=1e-5)

  moved = run(x, embed.at[0, 1, 0].add(1.0), mask) - found
  assert (np.abs(moved[0]).max() > 1e-3) == over_text
  np.testing.assert_array_equal(moved[1], np.zeros(SHAPE[1:]))

  # Swapping two pixels shows in the others only through GroupNorm, which does
  # not know of order; and in attention over pixels neither.
  swapped = x.at[:, 0, 0].set(x[:, 3, 3]).at[:, 3, 3].set(x[:, 0, 0])
  np.testing.assert_allclose(
    run(swapped, embed, mask)[:, 1], found[:, 1], rtol=1e-3, atol=1e-4
  )
  # Two that are mixed with their group's statistics kept: a pixel's channels
  # exchanged within a group change its key, so what others see.
  mixed = x.at[:, 0, 0].set(x[:, 0, 0, jnp.array([1, 0, 3, 2, 5, 4, 7, 6])])
  seen = np.abs(run(mixed, embed, mask) - found)[:, 1].max()
  assert (seen > 1e-4) == over_pixels


def test_attention_over_both_is_one_softmax():
  """By hand, in NumPy: pixels' and tokens' keys side by side."""
  module = attention(True, True, expansion=2)
  x = normal(6)
  embed, mask = text(PREFIX)
  variables = shaken(module, x, embed, mask)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables['params'])
  x64, embed, mask = (np.asarray(a) for a in (x, embed, mask))

  dense = lambda h, name: h @ p[name]['kernel'] + p[name]['bias']
  h = np.asarray(
    nn.GroupNorm(4).apply({'params': variables['params']['norm']}, x)
  ).reshape(2, 16, 8)
  tokens = (embed - embed.mean(-1, keepdims=True)) / np.sqrt(
    embed.var(-1, keepdims=True) + 1e-6
  )
  tokens = tokens * p['text_norm']['scale'] + p['text_norm']['bias']
  heads = lambda h: h.reshape(2, -1, 4, 4)  # Twice 8 channels, 4 a head.
  query = heads(dense(h, 'query'))
  key = [heads(dense(h, 'key')), heads(dense(tokens, 'text_key'))]
  value = [heads(dense(h, 'value')), heads(dense(tokens, 'text_value'))]
  key, value = np.concatenate(key, 1), np.concatenate(value, 1)
  logits = np.einsum('bqnk,blnk->bnql', query, key) / np.sqrt(4)
  seen = np.concatenate([np.ones((2, 16), bool), mask], 1)
  weights = np.exp(logits) * seen[:, None, None]
  weights /= weights.sum(-1, keepdims=True)
  y = np.einsum('bnql,blnk->bqnk', weights, value).reshape(2, 4, 4, 16)
  expected = 0.5 * (x64 + dense(y, 'out'))

  found = run(module, variables, x, embed, mask)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('way', [(False, True), (True, True)])
def test_attention_without_a_token_is_finite(way):
  module = attention(*way)
  x = normal(6)
  embed, mask = text(jnp.zeros((2, 5), bool))
  variables = shaken(module, x, embed, mask)

  def total(variables, x, embed):
    out = module.apply(variables, x, embed, mask)
    return out.sum(), out

  grad = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
  slopes, found = grad(variables, x, embed)
  assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(slopes))
  # What stands in the place of tokens is not attended to.
  _, noisy = grad(variables, x, normal(8, embed.shape))
  np.testing.assert_allclose(noisy, found, rtol=1e-5, atol=1e-6)
  if way == (False, True):
    bias = variables['params']['out']['bias'][None, None, None]
    np.testing.assert_allclose(found, 0.5 * (x + bias), rtol=1e-4, atol=1e-5)
