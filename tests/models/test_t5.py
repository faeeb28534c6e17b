"""The T5 encoder: its tree, its buckets, its masks.

What it computes is held to T5X's own outputs in tests/text/test_restore.py.
"""

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.models import t5

TINY = t5.T5Encoder(
  vocab_size=50,
  embed_dim=16,
  num_layers=2,
  num_heads=3,
  head_dim=8,
  mlp_dim=24,
)


def init(module):
  tokens = jnp.zeros((1, 4), jnp.int32)
  mask = jnp.ones((1, 4), bool)
  variables = jax.jit(module.init)(jax.random.key(0), tokens, mask)
  return meta.unbox(variables)


def shapes(module):
  tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 4), jnp.bool_)
  boxed = jax.eval_shape(module.init, jax.random.key(0), tokens, mask)
  return {
    '/'.join(key.key for key in path): (leaf.value.shape, leaf.names)
    for path, leaf in jax.tree.leaves_with_path(
      boxed['params'], is_leaf=lambda node: isinstance(node, meta.AxisMetadata)
    )
  }


def test_the_tree_is_t5xs():
  layer = {
    'pre_attention_layer_norm/scale': ((16,), ('embed',)),
    'attention/query/kernel': ((16, 24), ('embed', 'heads')),
    'attention/key/kernel': ((16, 24), ('embed', 'heads')),
    'attention/value/kernel': ((16, 24), ('embed', 'heads')),
    'attention/out/kernel': ((24, 16), ('heads', 'embed')),
    'pre_mlp_layer_norm/scale': ((16,), ('embed',)),
    'mlp/wi_0/kernel': ((16, 24), ('embed', 'mlp')),
    'mlp/wi_1/kernel': ((16, 24), ('embed', 'mlp')),
    'mlp/wo/kernel': ((24, 16), ('mlp', 'embed')),
  }
  expected = {
    f'encoder/layers_{i}/{name}': value
    for i in range(2)
    for name, value in layer.items()
  } | {
    'token_embedder/embedding': ((50, 16), ('vocab', 'embed')),
    'encoder/relpos_bias/rel_embedding': ((3, 32), ('heads', None)),
    'encoder/encoder_norm/scale': ((16,), ('embed',)),
  }
  assert shapes(TINY) == expected


def test_the_tree_of_1_0_and_of_scalable_t5():
  plain = shapes(dataclasses.replace(TINY, activation='relu'))
  wi = ((16, 24), ('embed', 'mlp'))
  assert plain['encoder/layers_0/mlp/wi/kernel'] == wi
  assert 'encoder/layers_0/mlp/wi_0/kernel' not in plain
  split = shapes(dataclasses.replace(TINY, split_heads=True))
  layer = 'encoder/layers_1'
  assert split[f'{layer}/attention/key/kernel'] == (
    (16, 3, 8),
    ('embed', 'heads', None),
  )
  assert split[f'{layer}/attention/out/kernel'] == (
    (3, 8, 16),
    ('heads', None, 'embed'),
  )
  assert split[f'{layer}/relpos_bias/rel_embedding'][0] == (3, 32)
  assert 'encoder/relpos_bias/rel_embedding' not in split


def test_buckets_begin_where_t5s_formula_puts_them():
  # The published formula, logarithmic up to distance 128, in float64.
  length = 200
  buckets = t5.relative_buckets(length)
  for distance in range(1, length):
    bucket = distance
    if distance >= 8:
      log = np.log(distance / 8) / np.log(128 / 8)
      bucket = min(15, 8 + int(log * 8 + 1e-9))
    assert buckets[distance, 0] == bucket  # The key lies before the query.
    assert buckets[0, distance] == bucket + 16
  assert buckets[5, 5] == 0


def test_padding_changes_no_real_token():
  variables = init(TINY)
  tokens = jnp.array([[5, 9, 1]])
  short = jax.jit(TINY.apply)(variables, tokens, jnp.ones((1, 3), bool))
  padded = jnp.array([[5, 9, 1, 7, 0]])
  mask = jnp.array([[True, True, True, False, False]])
  long = jax.jit(TINY.apply)(variables, padded, mask)
  np.testing.assert_allclose(long[:, :3], short, atol=1e-5)


def test_an_empty_text_is_finite():
  tokens = jnp.zeros((2, 4), jnp.int32)
  outputs = jax.jit(TINY.apply)(init(TINY), tokens, jnp.zeros((2, 4), bool))
  assert jnp.isfinite(outputs).all()


# As their papers write them: relu, GELU by tanh, and x times its sigmoid.
GATES = {
  'relu': lambda x: np.maximum(x, 0),
  'gelu': lambda x: (
    x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
  ),
  'silu': lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize(
  'activation', ['relu', 'gated-gelu', 'gated-silu', 'gated-relu']
)
def test_the_mlp_is_the_formula(activation):
  """UL2's, gated-silu, is in none of the golden models."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4)) * 2
  gated = activation.startswith('gated-')
  names = ['wi_0', 'wi_1'] if gated else ['wi']
  kernels = {name: rng.normal(size=(4, 6)) for name in names}
  kernels['wo'] = rng.normal(size=(6, 4))
  h = GATES[activation.removeprefix('gated-')](x @ kernels[names[0]])
  if gated:
    h = h * (x @ kernels['wi_1'])
  params = {
    name: {'kernel': np.float32(kernel)} for name, kernel in kernels.items()
  }
  with jax.default_matmul_precision('highest'):
    found = t5.Mlp(6, activation, jnp.float32).apply(
      {'params': params}, np.float32(x)
    )
  np.testing.assert_allclose(found, h @ kernels['wo'], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_result_is_of_the_modules_dtype(dtype):
  module = dataclasses.replace(TINY, dtype=dtype)
  tokens = jax.ShapeDtypeStruct((2, 4), jnp.int32)
  mask = jax.ShapeDtypeStruct((2, 4), jnp.bool_)
  variables = jax.eval_shape(module.init, jax.random.key(0), tokens, mask)
  outputs = jax.eval_shape(module.apply, variables, tokens, mask)
  assert (outputs.shape, outputs.dtype) == ((2, 4, 16), dtype)
