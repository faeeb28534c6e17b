"""The BERT encoder against its equations, written out in NumPy."""

import dataclasses
import math

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.models import bert

TINY = bert.BertEncoder(
  vocab_size=50,
  embed_dim=16,
  num_layers=2,
  num_heads=4,
  mlp_dim=24,
  max_positions=12,
)


@pytest.fixture(scope='module')
def variables():
  """Random parameters, norms and biases included."""
  tokens = jnp.zeros((1, 4), jnp.int32)
  mask = jnp.ones((1, 4), bool)
  tree = meta.unbox(jax.jit(TINY.init)(jax.random.key(0), tokens, mask))
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype('float32'),
    tree,
  )


def norm(p, x):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
  return x * p['scale'] + p['bias']


def dense(p, x):
  return x @ p['kernel'] + p['bias']


def expected(p, tokens):
  """The encoder on one text without padding, [L] to [L, D], in float64."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p)
  x = p['token_embedder']['embedding'][tokens]
  x = x + p['position_embedder']['embedding'][: len(tokens)]
  x = norm(p['embed_norm'], x + p['segment_embedder']['embedding'][0])
  gelu = np.vectorize(lambda h: 0.5 * h * (1 + math.erf(h / math.sqrt(2))))
  for i in range(2):
    layer = p[f'layers_{i}']
    a = layer['attention']
    heads = []
    for head in range(4):
      part = slice(4 * head, 4 * head + 4)
      q, k, v = (dense(a[n], x)[:, part] for n in ('query', 'key', 'value'))
      weights = np.exp(q @ k.T / 2)  # The root of four channels a head.
      heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    x = norm(
      layer['attention_norm'], x + dense(a['out'], np.concatenate(heads, -1))
    )
    h = dense(layer['wo'], gelu(dense(layer['wi'], x)))
    x = norm(layer['mlp_norm'], x + h)
  return x


def test_it_computes_its_equations(variables):
  tokens = np.array([3, 1, 4, 1, 5])
  outputs = jax.jit(TINY.apply)(variables, tokens[None], np.ones((1, 5), bool))[
    0
  ]
  np.testing.assert_allclose(
    outputs, expected(variables['params'], tokens), atol=1e-4
  )


def test_padding_changes_no_real_token(variables):
  tokens = np.array([[3, 1, 4, 9, 9]])
  mask = np.array([[True, True, True, False, False]])
  outputs = jax.jit(TINY.apply)(variables, tokens, mask)[0, :3]
  np.testing.assert_allclose(
    outputs, expected(variables['params'], tokens[0, :3]), atol=1e-4
  )


def test_an_empty_text_is_finite(variables):
  tokens = np.zeros((2, 4), np.int32)
  outputs = jax.jit(TINY.apply)(variables, tokens, np.zeros((2, 4), bool))
  assert jnp.isfinite(outputs).all()


def test_bfloat16_is_near_float32(variables):
  tokens, mask = np.array([[3, 1, 4, 1, 5]]), np.ones((1, 5), bool)
  coarse = dataclasses.replace(TINY, dtype=jnp.bfloat16)
  outputs = jax.jit(coarse.apply)(variables, tokens, mask)
  assert outputs.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(outputs, np.float32),
    jax.jit(TINY.apply)(variables, tokens, mask),
    atol=0.15,  # Outputs are up to 3.
  )
