"""Operations and bytes, against programs small enough to count by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from imagen_jax import flops


def shape(*sizes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


def count(function, *arguments):
  return flops.products(jax.make_jaxpr(function)(*arguments).jaxpr).total()


def convolve(x, kernel, stride=1, padding='SAME', groups=1):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def test_a_product():
  # 5 x 7 results of 3 multiplications; then four of them side by side.
  assert count(jnp.matmul, shape(5, 3), shape(3, 7)) == 2 * 5 * 7 * 3
  batched = shape(4, 5, 3), shape(4, 3, 7)
  assert count(jnp.matmul, *batched) == 2 * 4 * 5 * 7 * 3


@pytest.mark.parametrize('stride, side', [(1, 8), (2, 4)])
@pytest.mark.parametrize('groups', [1, 2])
def test_a_convolution_and_its_gradients(stride, side, groups):
  """Each gradient has the operations of the convolution, diluted or not."""
  x, kernel = shape(2, 8, 8, 4), shape(3, 3, 4 // groups, 6)
  function = functools.partial(convolve, stride=stride, groups=groups)
  once = 2 * (2 * side * side * 6) * (3 * 3 * 4 // groups)
  assert count(function, x, kernel) == once
  total = lambda *args: function(*args).sum()
  assert count(jax.grad(total, 0), x, kernel) in (once, 2 * once)
  assert count(jax.grad(total, (0, 1)), x, kernel) == 3 * once


def test_as_xla_counts_it_where_nothing_is_padded():
  x, kernel = shape(2, 8, 8, 4), shape(3, 3, 4, 6)
  function = functools.partial(convolve, padding='VALID')
  found = jax.jit(function).lower(x, kernel).cost_analysis()['flops']
  assert count(function, x, kernel) == found == 2 * (2 * 6 * 6 * 6) * 36


def test_attention():
  """Logits and values, of each head: 5 queries over 7 keys, 3 wide."""
  query, key = shape(2, 5, 4, 3), shape(2, 7, 4, 3)
  found = count(jax.nn.dot_product_attention, query, key, key)
  assert found == 2 * (2 * 2 * 4) * 5 * 7 * 3


def test_what_is_called_counts_as_often_as_it_runs():
  x, w = shape(2, 3), shape(3, 3)
  once = 2 * 2 * 3 * 3

  def loop(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0]

  def either(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)

  assert count(loop, x, w) == 5 * once
  assert count(jax.jit(loop), x, w) == 5 * once
  assert count(either, x, w) == once

  def forever(x, w):
    return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ w, x)

  with pytest.raises(ValueError, match='a while loop has no length'):
    count(forever, x, w)


def chain(x, w):
  """Two products: its gradient by both is four, and one more if remade."""
  return jnp.tanh(jnp.tanh(x @ w) @ w).sum()


def test_rematerialisation_counts_twice():
  x, w = shape(2, 3), shape(3, 3)
  once = 2 * 2 * 3 * 3
  assert count(jax.grad(chain, (0, 1)), x, w) == 6 * once
  again = count(jax.grad(jax.checkpoint(chain), (0, 1)), x, w)
  assert again == 8 * once


def test_operations_go_by_scope():
  def function(x, w):
    with jax.named_scope('outer'):
      with jax.named_scope('first'):
        x = x @ w
      return jax.jit(lambda x: x @ w)(x)

  jaxpr = jax.make_jaxpr(function)(shape(2, 3), shape(3, 3)).jaxpr
  found = flops.products(jaxpr)
  assert found['outer/first'] == 36 and found.total() == 72
  assert all(name.startswith('outer') for name in found)


def test_kept_bytes():
  """Of sin(x w) squared, x w and cos(x w) by whichever name: not x, not w."""
  loss = lambda w, x: jnp.sin(x @ w).sum()
  # The cosine alone, 2 x 3 numbers of 4 bytes.
  assert flops.kept_bytes(loss, shape(4, 3), shape(2, 4)) == 2 * 3 * 4
  remade = jax.checkpoint(loss)
  assert flops.kept_bytes(remade, shape(4, 3), shape(2, 4)) == 0


def test_what_is_kept_is_listed_largest_first():
  def loss(w, x):
    with jax.named_scope('wide'):
      wide = jnp.sin(x @ w)
    with jax.named_scope('narrow'):
      return jnp.sin(wide.sum(1)).sum()

  found = flops.kept(loss, shape(4, 3), shape(2, 4))
  assert [each[0] for each in found] == [2 * 3 * 4, 2 * 4]
  assert 'wide' in found[0][1] and found[0][2] == 'float32[2,3]'
  assert 'narrow' in found[1][1] and found[1][2] == 'float32[2]'
