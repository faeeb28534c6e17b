"""Norms by module, of leaves apart and in stacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import norms
from imagen_jax.train import step as step_lib

SHAPES = {
  'down0_res0': {'kernel': (3, 4), 'bias': (4,)},
  'down0_res1': {'kernel': (3, 4), 'bias': (4,)},
  'mid_attn': {'scale': (4,)},
  'stem': {'kernel': (2, 3, 4)},
}


def tree(seed):
  rng = np.random.default_rng(seed)
  draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  is_shape = lambda x: isinstance(x, tuple)
  return jax.tree.map(draw, SHAPES, is_leaf=is_shape)


def norm(*parts):
  leaves = jax.tree.leaves(parts)
  return np.sqrt(sum(np.square(np.float64(leaf)).sum() for leaf in leaves))


def test_modules_are_levels():
  assert norms.modules(tree(0)) == {
    'down0': [0, 1, 2, 3],
    'mid': [4],
    'stem': [5],
  }


@pytest.mark.parametrize('stacked', [False, True])
def test_a_norm_is_of_a_modules_leaves(stacked):
  params = tree(1)
  expected = [
    norm(params['down0_res0'], params['down0_res1']),
    norm(params['mid_attn']),
    norm(params['stem']),
  ]
  found = norms.by_module(params, stacked=stacked)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_metrics_are_named_where_they_are_written():
  trees = [tree(seed) for seed in range(3)]
  found = norms.metrics(*trees, stacked=False)
  values = norms.named(
    {'loss': 1.0, **jax.tree.map(lambda x: x.tolist(), found)}, trees[0]
  )
  assert list(values) == ['loss'] + [
    f'{kind}_norm/{module}'
    for kind in ('grad', 'param', 'update')
    for module in ('down0', 'mid', 'stem')
  ]
  assert values['param_norm/mid'] == pytest.approx(norm(trees[1]['mid_attn']))
  assert values['update_norm/stem'] == pytest.approx(norm(trees[2]['stem']))


def test_a_step_has_them_where_it_is_asked_to(tiny, monkeypatch):
  """Of the gradients before clipping, and of the parameters before the step."""
  config = config_lib.load(tiny)
  names = []
  monkeypatch.setattr(step_lib.jax, 'grad', None)
  for asked in ('false', 'true'):
    cfg = config_lib.override(config, [f'train.module_norms={asked}'])
    params, grads, updates = tree(0), tree(1), tree(2)
    monkeypatch.setattr(
      step_lib,
      'gradients',
      lambda *args, grads=grads: (grads, {'loss': jnp.float32(0)}),
    )
    tx = step_lib.optax.GradientTransformation(
      None, lambda *args, updates=updates: (updates, ())
    )
    state = step_lib.state_lib.TrainState(jnp.int32(0), params, params, ())
    _, metrics = step_lib.train_step(state, None, config=cfg, tx=tx)
    names.append(set(metrics))
  assert names[0] == {'loss', 'grad_norm'}
  values = norms.named(jax.tree.map(np.asarray, metrics), params)
  assert values['grad_norm/stem'] == pytest.approx(norm(grads['stem']))
  assert values['param_norm/stem'] == pytest.approx(norm(params['stem']))
  assert values['update_norm/stem'] == pytest.approx(norm(updates['stem']))
  whole = norm(*(values[f'grad_norm/{m}'] for m in norms.modules(params)))
  assert values['grad_norm'] == pytest.approx(whole)
