"""Which numbers of a training step are short, and which are not."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


@pytest.fixture(scope='module', params=['base', 'sr'])
def traced(tiny, request):
  """A step in bfloat16: what it computes, its state, and what it returns."""
  cfg = config_lib.override(
    config_lib.load(f'{tiny}:{request.param}'),
    ['stage.unet.dtype=bfloat16', 'train.ema_lengths=[0.1]'],
  )
  tx = optimizer.make_optimizer(cfg)
  state = jax.eval_shape(lambda: state_lib._init(cfg, tx, jax.random.key(0)))
  step = functools.partial(step_lib.train_step, config=cfg, tx=tx)
  batch = state_lib.abstract_batch(cfg, 4)
  jaxpr, found = jax.make_jaxpr(step, return_shape=True)(state, batch)
  return str(jaxpr), state, found


def results(jaxpr, primitive):
  """Types of all results of a primitive, as 'f32' or 'bf16'."""
  return re.findall(rf'(\w+)\[[\d,]*\] = {primitive}\b', jaxpr)


def test_products_are_short(traced):
  jaxpr, _, _ = traced
  products = results(jaxpr, 'conv_general_dilated')
  assert products.count('bf16') > 0.9 * len(products)


def test_norms_are_long(traced):
  """The statistics of group and layer norms, and Adam's roots."""
  jaxpr, _, _ = traced
  assert len(results(jaxpr, 'rsqrt')) > 5
  assert set(results(jaxpr, 'rsqrt')) == set(results(jaxpr, 'sqrt')) == {'f32'}


def test_a_softmax_is_long(traced):
  jaxpr, _, _ = traced
  assert set(results(jaxpr, 'exp')) == {'f32'}


def test_state_loss_and_gradients_are_long(traced):
  _, before, (after, metrics) = traced
  for state in (before, after):
    for part in (state.params, state.ema_params, state.ema_powers):
      leaves = jax.tree.leaves(part)
      assert leaves and all(leaf.dtype == jnp.float32 for leaf in leaves)
  moments = [leaf.dtype for leaf in jax.tree.leaves(after.opt_state)]
  assert set(moments) == {jnp.dtype('float32'), jnp.dtype('int32')}
  # The norm of the gradients is of what they are.
  assert {leaf.dtype for leaf in metrics.values()} == {jnp.dtype('float32')}
  types = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
  assert types(before) == types(after)
