"""Rules for parameters by path, and moments of fewer bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import checkpoint
from imagen_jax.train import norms
from imagen_jax.train import optimizer
from imagen_jax.train import parts
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

Rule = config_lib.ParameterRule
PARAMS = {
  'down0': {'kernel': np.ones((4, 8)), 'bias': np.ones(8)},
  'mid': {'kernel': np.full((4, 8), 2.0), 'bias': np.ones(8)},
  'out': {'kernel': np.ones((4, 8))},
}
PARAMS = jax.tree.map(lambda x: x.astype(np.float32), PARAMS)


def make(*rules, **fields):
  fields = {'name': 'adam', 'learning_rate': 0.1, 'warmup_steps': 0, **fields}
  return optimizer.make_optimizer(
    config_lib.Config(
      optimizer=config_lib.OptimizerConfig(rules=rules, **fields)
    )
  )


def grads(size=1.0):
  return jax.tree.map(lambda x: jnp.full(x.shape, size), PARAMS)


def first_update(tx, given=None):
  """The first number of each parameter's update, by path."""
  given = grads() if given is None else given
  updates, _ = tx.update(given, tx.init(PARAMS), PARAMS)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): float(u.ravel()[0])
    for path, u in jax.tree.leaves_with_path(updates)
  }


@pytest.mark.parametrize('name', ['adam', 'adafactor'])
def test_a_rule_is_of_those_that_fit_and_the_first_counts(name):
  plain = first_update(make(name=name))
  found = first_update(
    make(
      Rule('mid/bias', learning_rate=3.0),
      Rule('mid/*', learning_rate=0.5),
      Rule('*/bias', freeze=True),
      name=name,
    )
  )
  factors = {path: found[path] / plain[path] for path in plain}
  expected = {
    'down0/bias': 0.0,
    'down0/kernel': 1.0,
    'mid/bias': 3.0,
    'mid/kernel': 0.5,
    'out/kernel': 1.0,
  }
  for path, factor in expected.items():
    np.testing.assert_allclose(factors[path], factor, rtol=1e-5, err_msg=path)


def test_a_rule_keeps_to_the_schedule():
  """Its factor is of the warm-up's rate, too."""
  rule = Rule('out/*', learning_rate=2.0)
  tx = make(rule, warmup_steps=4, learning_rate=0.4, clip_norm=0.0)
  state = tx.init(PARAMS)
  for step in range(6):
    updates, state = tx.update(grads(), state, PARAMS)
    for path, factor in (('out', 2.0), ('mid', 1.0)):
      rate = 0.1 * min(step, 4)
      found = updates[path]['kernel'][0, 0]
      np.testing.assert_allclose(found, -factor * rate, rtol=1e-4, atol=1e-9)


def test_weight_decay_by_rule():
  """The rest has the optimiser's, of kernels; a rule's is of all it takes."""
  tx = make(
    Rule('mid/*', weight_decay=0.5),
    Rule('out/*', weight_decay=0.0),
    Rule('down0/bias', learning_rate=0.5),
    weight_decay=0.1,
  )
  found = first_update(tx, grads(0.0))
  expected = {
    'down0/bias': 0.0,
    'down0/kernel': -0.1 * 0.1,
    'mid/bias': -0.1 * 0.5,
    'mid/kernel': -0.1 * 0.5 * 2,
    'out/kernel': 0.0,
  }
  for path, update in expected.items():
    np.testing.assert_allclose(found[path], update, rtol=1e-6, err_msg=path)
  # A factor of the learning rate is one of its decay, as in AdamW.
  tx = make(Rule('mid/*', weight_decay=0.5, learning_rate=3.0))
  found = first_update(tx, grads(0.0))['mid/bias']
  np.testing.assert_allclose(found, -0.3 * 0.5, rtol=1e-6)


@pytest.mark.parametrize('stacked', [False, True])
def test_what_is_frozen_is_not_clipped_by_nor_remembered(stacked):
  large = grads()
  large['mid'] = jax.tree.map(lambda g: g * 1e6, large['mid'])
  tx = make(Rule('mid/*', freeze=True), clip_norm=1.0, stacked=stacked)
  state = tx.init(PARAMS)
  updates, state = tx.update(large, state, PARAMS)
  assert not jax.tree.reduce(lambda a, b: a + abs(b).sum(), updates['mid'], 0)
  kept = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
  # Two moments of a kernel and a bias, and of a kernel.
  assert len(kept) == 6
  # 72 ones are left of the gradient, clipped to the norm 1.
  (first, *_) = optax.tree.get_all_with_path(state, 'mu')
  moment = first[1]['out']['kernel'][0, 0]
  np.testing.assert_allclose(moment, 0.1 / 72**0.5, rtol=1e-5)


@pytest.mark.parametrize('stacked', [False, True])
def test_metrics_and_clipping_are_of_what_is_trained(stacked, monkeypatch):
  """A gradient of 3 and 4, and one of millions that is frozen."""
  given = grads(0.0)
  given['down0']['kernel'] = given['down0']['kernel'].at[1, 2].set(3.0)
  given['out']['kernel'] = given['out']['kernel'].at[0, 0].set(4.0)
  given['mid'] = jax.tree.map(lambda g: g + 1e6, given['mid'])
  monkeypatch.setattr(
    step_lib, 'gradients', lambda *_: (given, {'loss': jnp.float32(1.0)})
  )
  cfg = config_lib.Config(
    optimizer=config_lib.OptimizerConfig(
      name='adam',
      clip_norm=1.0,
      rules=(Rule('mid/*', freeze=True),),
      stacked=stacked,
    ),
    train=config_lib.TrainConfig(module_norms=True),
  )
  tx = optimizer.make_optimizer(cfg)
  params = jax.tree.map(jnp.asarray, PARAMS)
  state = state_lib.TrainState(jnp.int32(0), params, params, tx.init(params))
  after, metrics = step_lib.train_step(state, None, config=cfg, tx=tx)
  np.testing.assert_allclose(metrics['grad_norm'], 5.0, rtol=1e-6)
  named = norms.named(metrics, params)
  for module, expected in (('down0', 3.0), ('mid', 0.0), ('out', 4.0)):
    np.testing.assert_allclose(
      named[f'grad_norm/{module}'], expected, rtol=1e-6
    )
  # Clipped from 5 to 1, and a tenth of it remembered.
  (first, *_) = optax.tree.get_all_with_path(after.opt_state, 'mu')
  for module, place, expected in (
    ('down0', (1, 2), 0.06),
    ('out', (0, 0), 0.08),
  ):
    moment = first[1][module]['kernel'][place]
    np.testing.assert_allclose(moment, expected, rtol=1e-5)
  jax.tree.map(
    np.testing.assert_array_equal, after.params['mid'], PARAMS['mid']
  )


def test_rules_that_take_nothing_are_refused():
  words = (
    r'rules\[%s\] takes no parameter that no rule before it takes; accepted: '
    'paths with .*, of such as down0/bias$'
  )
  with pytest.raises(ValueError, match=words % r'down1/\*'):
    make(Rule('down1/*', freeze=True)).init(PARAMS)
  taken = Rule('mid*', freeze=True), Rule('mid/bias', learning_rate=2.0)
  with pytest.raises(ValueError, match=words % 'mid/bias'):
    make(*taken).init(PARAMS)


def test_a_run_with_a_rule_that_takes_nothing_does_not_begin(tiny):
  rules = 'optimizer.rules=[{"path": "dwon0*", "freeze": true}]'
  cfg = config_lib.override(config_lib.load(tiny), [rules])
  mesh = sharding.make_mesh(cfg.mesh)
  with pytest.raises(ValueError, match=r'rules\[dwon0\*\] takes no parameter'):
    state_lib.state_shardings(cfg, optimizer.make_optimizer(cfg), mesh)


@pytest.mark.parametrize('stacked', [False, True])
@pytest.mark.parametrize('name', ['adam', 'adafactor'])
def test_a_state_by_rules_lies_in_shards_and_comes_back(
  name, stacked, tmp_path
):
  momentum = 0.9 if name == 'adafactor' else 0.0
  tx = make(
    Rule('mid/*', learning_rate=0.5),
    Rule('down0/bias', freeze=True),
    name=name,
    momentum=momentum,
    moment_dtype='bfloat16',
    stacked=stacked,
  )
  mesh = sharding.make_mesh(config_lib.MeshConfig(data=2, fsdp=4))
  split = jax.sharding.NamedSharding(mesh, jax.P(None, 'fsdp'))
  whole = sharding.replicated(mesh)
  places = jax.tree.map(lambda x: split if x.ndim > 1 else whole, PARAMS)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS
  )
  of_state = sharding.opt_shardings(tx, shapes, places, mesh)
  params = jax.device_put(PARAMS, places)
  state = jax.jit(tx.init, out_shardings=of_state)(params)
  update = jax.jit(tx.update, out_shardings=(places, of_state))
  _, state = update(params, state, params)
  moments = [x for x in jax.tree.leaves(state) if x.dtype == jnp.bfloat16]
  assert len(moments) == 4
  for leaf in moments:
    assert leaf.sharding.is_fully_replicated == (leaf.ndim == 1)
  step = jax.device_put(jnp.int32(1), whole)
  saved = state_lib.TrainState(step, params, params, state)
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    checkpointer.save(saved, {}, config_lib.Config(), {})
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      saved,
    )
    checkpointer.wait()
    restored, _ = checkpointer.restore(1, abstract)
    digests = parts.digests_of(restored, {})
    checkpointer.said(1).check(digests)
  assert jax.tree.structure(restored) == jax.tree.structure(saved)
  jax.tree.map(np.testing.assert_array_equal, restored, saved)


def test_short_moments_round_what_long_ones_hold():
  (long, short) = (
    make(moment_dtype=dtype, clip_norm=0.0) for dtype in ('float32', 'bfloat16')
  )
  given = grads(0.3)
  _, exact = long.update(given, long.init(PARAMS), PARAMS)
  updates, state = short.update(given, short.init(PARAMS), PARAMS)
  moments, expected = (optax.tree.get(each, 'mu') for each in (state, exact))
  for found, wanted in zip(*map(jax.tree.leaves, (moments, expected))):
    assert found.dtype == jnp.bfloat16
    assert wanted.dtype == jnp.float32
    np.testing.assert_array_equal(found, wanted.astype(jnp.bfloat16))
  # The second moment and the update keep all bits.
  for tree in (optax.tree.get(state, 'nu'), updates):
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  'dtype, error', [('float32', 1e-6), ('bfloat16', 4e-3)]
)
def test_momentum_is_of_adafactors_updates(dtype, error):
  plain = first_update(make(name='adafactor'))
  tx = make(name='adafactor', momentum=0.75, moment_dtype=dtype)
  state = tx.init(PARAMS)
  for share in (0.25, 0.25 * 1.75):
    updates, state = tx.update(grads(), state, PARAMS)
    found = float(updates['out']['kernel'][0, 0])
    np.testing.assert_allclose(found, share * plain['out/kernel'], rtol=error)
