"""Attention's core against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.models import attention


def inputs(dtype):
  keys = jax.random.split(jax.random.key(0), 4)
  draw = lambda key, *shape: jax.random.normal(key, shape).astype(dtype)
  # More keys than queries; 2 heads of 8.
  query = 3 * draw(keys[0], 3, 5, 2, 8)
  key, value = draw(keys[1], 3, 7, 2, 8), draw(keys[2], 3, 7, 2, 8)
  mask = (
    jax.random.bernoulli(keys[3], 0.6, (3, 1, 1, 7)).at[:, ..., 0].set(True)
  )
  return query, key, value, mask.at[1].set(False)


def plain(query, key, value, mask):
  return jax.nn.dot_product_attention(query, key, value, mask=mask)


@pytest.mark.parametrize(
  'dtype, error', [('float32', 2e-6), ('bfloat16', 0.02)]
)
def test_values_and_gradients_are_those_of_jax(dtype, error):
  query, key, value, mask = inputs(jnp.dtype(dtype))
  weight = jax.random.normal(jax.random.key(1), query.shape)

  def run(function):
    loss = lambda *x: (function(*x, mask) * weight).astype(jnp.float32).sum()
    gradients = jax.grad(loss, (0, 1, 2))(query, key, value)
    return function(query, key, value, mask), *gradients

  for got, expected in zip(run(attention.attend), run(plain)):
    assert got.dtype == expected.dtype == jnp.dtype(dtype)
    got, expected = got.astype(jnp.float32), expected.astype(jnp.float32)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(got, expected, atol=error * scale, rtol=0)


def test_nothing_to_attend_to_is_the_mean():
  query, key, value, mask = inputs(jnp.float32)
  got = attention.attend(query, key, value, mask)[1]
  mean = jnp.broadcast_to(value[1].mean(0), got.shape)
  np.testing.assert_allclose(got, mean, rtol=1e-5, atol=1e-6)
