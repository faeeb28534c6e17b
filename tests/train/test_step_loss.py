"""What each setting of the loss and of the augmentation does to a step."""

import jax
import jax.numpy as jnp
import numpy as np
from one_weight import batch
from one_weight import losses
import pytest

from imagen_jax import cascade
from imagen_jax import config as config_lib
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


@pytest.mark.parametrize(
  'change',
  [
    'schedule=shifted_cosine',
    'schedule=edm',
    'zero_terminal_snr=true',
    'weighting=min_snr',
    'weighting=truncated_snr',
    'weighting=sigmoid',
    'prediction=edm',
    'loss=edm',
    'loss=v',
    'loss=x',
    'prediction=x weighting=min_snr',
  ],
)
def test_each_setting_changes_the_loss(change, tiny, network):
  cfg = config_lib.load(tiny)
  # The linear schedule, on whose end zero_terminal_snr tells.
  cfg = config_lib.override(cfg, ['stage.diffusion.schedule=linear'])
  changes = [f'stage.diffusion.{each}' for each in change.split()]
  changed = config_lib.override(cfg, changes)
  (plain, _), (found, _) = losses(cfg), losses(changed)
  assert np.isfinite(found)
  assert abs(found / plain - 1) > 1e-3


def test_numbers_of_the_settings_change_the_loss(tiny, network):
  cfg = config_lib.load(tiny)
  for base, change in (
    ('weighting=min_snr', 'min_snr_gamma=2'),
    ('weighting=sigmoid', 'sigmoid_bias=-1'),
    ('schedule=shifted_cosine', 'shift_size=256'),
    ('schedule=edm', 'edm_mean=-0.4'),
    ('schedule=edm', 'edm_std=0.7'),
    ('prediction=edm', 'sigma_data=1'),
  ):
    changes = [f'stage.diffusion.{each}' for each in (base, change)]
    plain, found = (
      losses(config_lib.override(cfg, some))[0]
      for some in (changes[:1], changes)
    )
    assert abs(found / plain - 1) > 1e-3, change


def test_the_weight_is_the_weightings(tiny, network):
  """min(SNR, 5) / SNR of every example's plain loss in eps."""
  cfg = config_lib.load(tiny)
  changed = config_lib.override(cfg, ['stage.diffusion.weighting=min_snr'])
  for step in range(3):
    plain, found = (losses(c, size=1, step=step)[0] for c in (cfg, changed))
    t = jax.random.uniform(step_lib.step_keys(0, step)['time'], (1,))
    snr = np.exp(np.asarray(cascade.stage_schedule(cfg.stage)(t), float))[0]
    np.testing.assert_allclose(found, plain * min(snr, 5) / snr, rtol=1e-4)


KINDS = ('x', 'eps', 'v', 'edm')


WEIGHTINGS = ('plain', 'min_snr', 'truncated_snr', 'sigmoid')


# What is refused, since it has no bound.
UNBOUND = {('eps', kind, 'truncated_snr') for kind in KINDS}


UNBOUND |= {(p, q, 'plain') for p in ('x', 'eps') for q in KINDS if p != q}


@pytest.mark.parametrize('prediction', KINDS)
def test_losses_are_their_formula(prediction, tiny, monkeypatch):
  """Prediction, loss and weighting, with self-conditioning, in NumPy."""
  network = lambda z, logsnr, cond, **_: 0.7 * z + 0.2 * cond.x_last + 0.1
  monkeypatch.setattr(state_lib, 'bind', lambda stage, params: network)
  cfg = config_lib.load(tiny)
  some = batch(cfg, size=5)
  drawn = {
    't': jnp.linspace(0.1, 0.9, 5),
    'eps': jax.random.normal(jax.random.key(1), some.image.shape),
    'drop': jnp.zeros(5, bool),
    'given': jnp.array([1, 0, 1, 1, 0], bool),
  }
  x, eps = (np.asarray(a, float) for a in (some.image, drawn['eps']))
  t, given = (
    np.asarray(drawn[name], float)[:, None, None, None]
    for name in ('t', 'given')
  )
  alpha, sigma = np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t)
  snr = (alpha / sigma) ** 2
  z = alpha * x + sigma * eps
  c_in = 1 / np.hypot(sigma, 0.3 * alpha)
  c_skip, c_out = 0.09 * alpha * c_in**2, 0.3 * sigma * c_in

  def x_hat(out):
    return {
      'x': out,
      'eps': (z - sigma * out) / alpha,
      'v': alpha * z - sigma * out,
      'edm': c_skip * z + c_out * out,
    }[prediction]

  out = 0.7 * (c_in * z if prediction == 'edm' else z) + 0.1
  last = np.clip(x_hat(out), -1, 1) * given
  error = x_hat(out + 0.2 * last) - x
  per_x = {'x': 1, 'eps': alpha / sigma, 'v': 1 / sigma, 'edm': 1 / c_out}
  weights = {
    'min_snr': np.minimum(snr, 3),
    'truncated_snr': np.maximum(snr, 1),
    # -d logsnr / dt is 2 pi / sin(pi t).
    'sigmoid': snr / (1 + snr / np.e) * 2 * np.pi / np.sin(np.pi * t),
  }
  numbers = {'min_snr': 'min_snr_gamma=3', 'sigmoid': 'sigmoid_bias=1'}
  for kind in KINDS:
    for weighting in WEIGHTINGS:
      if (prediction, kind, weighting) in UNBOUND:
        continue
      changes = [f'prediction={prediction}', f'loss={kind}']
      changes += [f'weighting={weighting}', 'self_condition=true']
      changes += [numbers[weighting]] if weighting in numbers else []
      changes += ['sigma_data=0.3'] if 'edm' in (prediction, kind) else []
      each = [f'stage.diffusion.{change}' for change in changes]
      found = step_lib.losses_fn(
        None, some, drawn, None, config_lib.override(cfg, each)
      )
      weight = weights.get(weighting, per_x[kind] ** 2)
      expected = (weight * error**2).mean((1, 2, 3))
      np.testing.assert_allclose(found, expected, rtol=2e-4, err_msg=each)


@pytest.mark.parametrize('per', ['example', 'batch'])
def test_levels_of_augmentation_are_up_to_the_largest(per, tiny):
  levels = {}
  for most in (0.0, 0.3):
    changes = [f'diffusion.aug_max={most}', f'diffusion.aug_per={per}']
    cfg = config_lib.override(
      config_lib.load(f'{tiny}:sr'),
      [f'stage.{each}' for each in (*changes, 'sample.aug_level=0')],
    )
    some = batch(cfg)
    levels[most] = np.array(
      [
        step_lib.draw(some, step_lib.step_keys(0, step), cfg)['aug_level']
        for step in range(12)
      ]
    )
  np.testing.assert_array_equal(levels[0.0], 0)
  # Some are above a half of it, and none above all.
  assert 0.15 < levels[0.3].max() <= 0.3 and levels[0.3].min() < 0.15


def test_self_conditioning_gives_half_a_first_estimate(tiny, network):
  on = ['stage.diffusion.self_condition=true']
  cfg = config_lib.override(config_lib.load(tiny), on)
  losses(cfg)
  (_, first, _, _), (logsnr, second, _, _) = network.seen
  assert not first.x_last.any()
  given = np.asarray(second.x_last).any((1, 2, 3))
  assert 2 < given.sum() < 14
  # v_hat = z / 2, of which the estimate is alpha z - sigma v_hat, clipped.
  keys = step_lib.step_keys(0, 0)
  eps = jax.random.normal(keys['noise'], second.x_last.shape)
  alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))[:, None, None, None]
  sigma = jnp.sqrt(jax.nn.sigmoid(-logsnr))[:, None, None, None]
  z = alpha * batch(cfg).image + sigma * eps
  expected = np.clip((alpha - 0.5 * sigma) * z, -1, 1)
  np.testing.assert_allclose(
    second.x_last[given], expected[given], rtol=1e-3, atol=1e-4
  )


def test_no_gradient_flows_through_the_first_estimate(tiny, monkeypatch):
  """A network that says what it was given learns nothing of that."""

  class Repeats:
    def apply(self, variables, z, logsnr, cond, **_):
      return variables['params']['w'] * z + cond.x_last

  monkeypatch.setattr(state_lib, 'make_network', lambda stage: Repeats())
  on = ['stage.diffusion.self_condition=true', 'stage.diffusion.prediction=x']
  cfg = config_lib.override(
    config_lib.load(tiny), [*on, 'stage.diffusion.loss=x']
  )
  keys = step_lib.step_keys(0, 0)
  some = batch(cfg)
  slope = jax.grad(lambda w: losses(cfg, w)[0])(0.3)
  t = jax.random.uniform(keys['time'], (16,))
  eps = jax.random.normal(keys['noise'], some.image.shape)
  logsnr = cascade.stage_schedule(cfg.stage)(t)
  alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))[:, None, None, None]
  sigma = jnp.sqrt(jax.nn.sigmoid(-logsnr))[:, None, None, None]
  z = alpha * some.image + sigma * eps
  given = jax.random.bernoulli(keys['self_condition'], 0.5, (16,))
  last = jnp.clip(0.3 * z, -1, 1) * given[:, None, None, None]
  expected = (2 * (0.3 * z + last - some.image) * z).mean()
  np.testing.assert_allclose(slope, expected, rtol=1e-3)
