"""The optimiser against hand computations."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import optimizer


def config(num_steps=100, **fields):
  fields = {'name': 'adam', 'clip_norm': 0.0, **fields}
  return config_lib.Config(
    optimizer=config_lib.OptimizerConfig(**fields),
    train=config_lib.TrainConfig(num_steps=num_steps),
  )


def update(cfg, params, *gradients):
  tx = optimizer.make_optimizer(cfg)
  state = tx.init(params)
  for grads in gradients:
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


@pytest.mark.parametrize(
  'decay, warmup, expected',
  [
    ('constant', 10, {0: 0.0, 5: 0.5, 10: 1.0, 99: 1.0}),
    ('constant', 0, {0: 1.0, 99: 1.0}),
    ('cosine', 0, {0: 1.0, 50: 0.5, 100: 0.0}),
    (
      'cosine',
      20,
      {10: 0.5, 20: 1.0, 40: (1 + math.cos(math.pi / 4)) / 2, 100: 0.0},
    ),
    ('cosine', 200, {100: 0.5}),
  ],
)
def test_learning_rate(decay, warmup, expected):
  cfg = config(learning_rate=1.0, warmup_steps=warmup, decay=decay)
  rate = optimizer.learning_rate(cfg)
  for step, value in expected.items():
    np.testing.assert_allclose(rate(step), value, atol=1e-6)


def test_no_warmup_is_nothing_to_warn_of(caplog):
  with caplog.at_level(logging.INFO):
    optimizer.learning_rate(config(warmup_steps=0))
  assert not caplog.records


def test_adam_against_its_formula():
  cfg = config(learning_rate=0.1, warmup_steps=0, b1=0.8, b2=0.9, eps=1e-3)
  param, m, v = 2.0, 0.0, 0.0
  gradients = [0.5, -1.0, 0.25]
  for n, g in enumerate(gradients, 1):
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
    step = (m / (1 - 0.8**n)) / (math.sqrt(v / (1 - 0.9**n)) + 1e-3)
    param -= 0.1 * step
  got = update(
    cfg, {'w': jnp.float32(2.0)}, *[{'w': jnp.float32(g)} for g in gradients]
  )
  np.testing.assert_allclose(got['w'], param, rtol=1e-5)


def test_weight_decay_shrinks_kernels_alone():
  cfg = config(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  got = update(cfg, params, jax.tree.map(jnp.zeros_like, params))
  np.testing.assert_allclose(got['kernel'], 0.95, rtol=1e-6)
  np.testing.assert_array_equal(got['bias'], 1.0)


def test_clipping_is_by_the_global_norm():
  # Adam's first step has the size of the rate whatever the gradient, so the
  # sizes of two are compared through the second moment.
  grads = {'a': jnp.array([30.0]), 'b': jnp.array([40.0])}
  cfg = config(clip_norm=1.0)
  tx = optimizer.make_optimizer(cfg)
  _, state = tx.update(grads, tx.init(grads), grads)
  moments = jax.tree.leaves(optax.tree.get(state, 'mu'))
  unclipped = 1 - cfg.optimizer.b1
  np.testing.assert_allclose(
    np.concatenate(moments), unclipped * np.array([0.6, 0.8]), rtol=1e-5
  )
  _, state = tx.update(
    jax.tree.map(lambda g: g / 100, grads), tx.init(grads), grads
  )
  moments = jax.tree.leaves(optax.tree.get(state, 'mu'))
  np.testing.assert_allclose(
    np.concatenate(moments), unclipped * np.array([0.3, 0.4]), rtol=1e-5
  )


def test_adafactor_keeps_factored_moments_of_large_kernels():
  cfg = config(name='adafactor', learning_rate=0.1, warmup_steps=0)
  params = {'kernel': jnp.ones((256, 128))}
  tx = optimizer.make_optimizer(cfg)
  state = tx.init(params)
  size = sum(leaf.size for leaf in jax.tree.leaves(state))
  assert size < 1000
  got = update(cfg, params, {'kernel': jnp.full((256, 128), 3.0)})
  # Relative to the parameter's size (root mean square 1) and of unit RMS.
  np.testing.assert_allclose(got['kernel'], 0.9, rtol=1e-5)
