"""Updates by kind of parameter against Optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import alike
from imagen_jax.train import optimizer


def tree(key, scale=1.0):
  """Kernels that Adafactor factors, alike and not, and smaller leaves."""
  shapes = {
    'a': {'kernel': (3, 3, 128, 128), 'bias': (128,)},
    'b': {'kernel': (3, 3, 128, 128), 'bias': (128,), 'scale': (64,)},
    'c': {'kernel': (128, 256), 'bias': (256,), 'gain': ()},
  }
  is_shape = lambda x: isinstance(x, tuple)
  leaves, treedef = jax.tree.flatten(shapes, is_leaf=is_shape)
  keys = jax.random.split(key, len(leaves))
  # Each of its own size, so that one leaf's statistics are not another's.
  return treedef.unflatten(
    scale * 3.0**i * jax.random.normal(k, shape)
    for i, (k, shape) in enumerate(zip(keys, leaves))
  )


def follow(tx, steps=3):
  params = tree(jax.random.key(0))
  state = tx.init(params)
  update = jax.jit(tx.update)
  for step in range(steps):
    grads = tree(jax.random.key(1 + step), 0.01)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


@pytest.mark.parametrize('clip', [0.0, 0.5, 1e9])
@pytest.mark.parametrize('name', ['adafactor', 'adam'])
def test_as_optax_does_leaf_by_leaf(name, clip):
  fields = {'name': name, 'clip_norm': clip, 'warmup_steps': 2, 'stacked': True}
  fields |= {'weight_decay': 0.1} if name == 'adam' else {}
  cfg = config_lib.Config(optimizer=config_lib.OptimizerConfig(**fields))
  opt, rate = cfg.optimizer, optimizer.learning_rate(cfg)
  if name == 'adafactor':
    plain = optax.adafactor(rate)
  else:
    plain = optax.adamw(
      rate,
      b1=opt.b1,
      b2=opt.b2,
      eps=opt.eps,
      weight_decay=0.1,
      mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
  if clip:
    plain = optax.chain(optax.clip_by_global_norm(clip), plain)
  expected, got = follow(plain), follow(optimizer.make_optimizer(cfg))
  # The state as well, so that checkpoints are the same.
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-9),
    got,
    expected,
  )


def test_norm():
  grads = tree(jax.random.key(0))
  np.testing.assert_allclose(
    alike.norm(grads), optax.tree.norm(grads), rtol=1e-6
  )


def test_a_lone_array():
  tx = optax.adam(0.1)
  params, grads = jnp.ones(3), jnp.arange(3.0)
  expected = tx.update(grads, tx.init(params), params)
  got = alike.by_kind(tx).update(grads, tx.init(params), params)
  jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_needs_the_parameters():
  tx = alike.by_kind(optax.adam(0.1))
  params = {'w': jnp.ones(3)}
  with pytest.raises(ValueError, match='needs the parameters'):
    tx.update(params, tx.init(params))


def test_a_program_of_kinds_and_not_of_leaves():
  count = lambda tx, params: len(
    jax.make_jaxpr(tx.update)(params, tx.init(params), params).eqns
  )
  params = {f'w{i}': jnp.ones((128, 128)) for i in range(20)}
  make = lambda stacked: optimizer.make_optimizer(
    config_lib.Config(optimizer=config_lib.OptimizerConfig(stacked=stacked))
  )
  assert count(make(True), params) * 3 < count(make(False), params)


@pytest.mark.parametrize('name', ['adafactor', 'adam'])
def test_rules_and_short_moments_are_the_same_in_stacks(name):
  """Some leaves frozen and some faster, so that stacks are of others."""
  rule = config_lib.ParameterRule
  rules = (rule('a/bias', freeze=True), rule('*/kernel', learning_rate=0.5))
  momentum = 0.9 if name == 'adafactor' else 0.0
  make = lambda stacked: optimizer.make_optimizer(
    config_lib.Config(
      optimizer=config_lib.OptimizerConfig(
        *(name, 0.1, 2),
        momentum=momentum,
        moment_dtype='bfloat16',
        rules=rules,
        stacked=stacked,
      )
    )
  )
  expected, got = (follow(make(stacked), 2) for stacked in (False, True))
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  # A last bit of a norm may be another, and of a short moment so much more.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.asarray(a, 'f'), np.asarray(b, 'f'), rtol=1e-2, atol=1e-6
    ),
    got,
    expected,
  )
  first = tree(jax.random.key(0))
  np.testing.assert_array_equal(got[0]['a']['bias'], first['a']['bias'])
  assert (got[0]['b']['bias'] != first['b']['bias']).all()
