"""One step: keys, loss and its parts, the average of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import cascade
from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


class Network:
  """Stands in for a U-Net: its one weight times the noised image."""

  def __init__(self):
    self.seen = []

  def apply(self, variables, z, logsnr, cond, *, deterministic, rngs):
    self.seen.append((logsnr, cond, deterministic, rngs))
    return variables['params']['w'] * z


@pytest.fixture
def network(monkeypatch):
  network = Network()
  monkeypatch.setattr(state_lib, 'make_network', lambda stage: network)
  return network


def batch(cfg, size=16):
  rng = np.random.default_rng(0)
  pixels = cfg.stage.image_size
  lowres = None
  if cfg.stage.lowres_size:
    lowres = jnp.full((size, *[cfg.stage.lowres_size] * 2, 3), 0.5)
  text = structs.TextCond(
    embed=jnp.ones((size, 6, 8)), mask=jnp.ones((size, 6), bool)
  )
  image = rng.uniform(-1, 1, (size, pixels, pixels, 3)).astype(np.float32)
  return structs.Batch(jnp.asarray(image), text, lowres)


def state(tx, w=0.5):
  params = {'w': jnp.float32(w)}
  return state_lib.TrainState(
    step=jnp.int32(0),
    params=params,
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=tx.init(params),
  )


def test_keys_depend_on_seed_step_and_purpose():
  def words(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())

  every = [
    words(key)
    for seed in (0, 1)
    for step in (0, 1)
    for key in step_lib.step_keys(seed, step).values()
  ]
  assert len(set(every)) == len(every) == 28
  assert words(step_lib.step_keys(1, 1)['self_condition']) == every[-1]


def test_loss_of_a_network_that_says_nothing(tiny, network):
  cfg = config_lib.load(tiny)
  # Output 0 for v is x_hat = alpha z; loss in eps then is of that x_hat.
  some = batch(cfg)
  loss, metrics = step_lib.loss_fn(
    {'w': jnp.float32(0)}, some, step_lib.step_keys(0, 3), cfg
  )
  keys = step_lib.step_keys(0, 3)
  t = jax.random.uniform(keys['time'], (16,))
  eps = jax.random.normal(keys['noise'], some.image.shape)
  logsnr = cascade.stage_schedule(cfg.stage)(t)
  alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))[:, None, None, None]
  sigma = jnp.sqrt(jax.nn.sigmoid(-logsnr))[:, None, None, None]
  # eps_hat = sigma z + alpha v, and v is 0.
  error = sigma * (alpha * some.image + sigma * eps) - eps
  losses = (error**2).mean((1, 2, 3))
  np.testing.assert_allclose(loss, losses.mean(), rtol=1e-4)
  for i in range(4):
    inside = (t >= i / 4) & (t < (i + 1) / 4)
    assert inside.any()
    np.testing.assert_allclose(
      metrics[f'loss_t{i}'], losses[inside].mean(), rtol=1e-4
    )


def test_a_bucket_without_examples_is_nan(tiny, network):
  cfg = config_lib.load(tiny)
  _, metrics = step_lib.loss_fn(
    {'w': jnp.float32(0)}, batch(cfg, size=1), step_lib.step_keys(0, 0), cfg
  )
  buckets = [bool(jnp.isnan(metrics[f'loss_t{i}'])) for i in range(4)]
  assert sum(buckets) == 3


def test_the_configured_share_of_text_is_dropped(tiny, network):
  cfg = config_lib.load(tiny)
  for step in range(40):
    step_lib.loss_fn(
      {'w': jnp.float32(0)}, batch(cfg), step_lib.step_keys(0, step), cfg
    )
  dropped = []
  for _, cond, _, _ in network.seen:
    gone = ~np.asarray(cond.text.mask).any(1)
    np.testing.assert_array_equal(
      np.asarray(cond.text.embed).any((1, 2)), ~gone
    )
    np.testing.assert_array_equal(np.asarray(cond.text.mask).all(1), ~gone)
    dropped.append(gone)
  # 640 draws at 0.1: a share outside these has a chance below 1e-4.
  assert 0.055 < np.mean(dropped) < 0.155


def test_a_super_resolution_stage_is_conditioned_on_a_corrupted_image(
  tiny, network
):
  cfg = config_lib.load(f'{tiny}:sr')
  step_lib.loss_fn(
    {'w': jnp.float32(0)}, batch(cfg), step_lib.step_keys(0, 0), cfg
  )
  _, cond, deterministic, _ = network.seen[0]
  assert cond.lowres.shape == (16, 32, 32, 3)
  assert len(set(np.asarray(cond.aug_logsnr).tolist())) == 16
  clean = int(jnp.argmax(cond.aug_logsnr))
  noisy = int(jnp.argmin(cond.aug_logsnr))
  assert jnp.std(cond.lowres[clean]) < jnp.std(cond.lowres[noisy])
  assert deterministic


def lowres_seen(network, tiny, *changes):
  """The condition that a super-resolution step gives the network."""
  cfg = config_lib.override(
    config_lib.load(f'{tiny}:sr'), [f'stage.diffusion.{c}' for c in changes]
  )
  step_lib.loss_fn(
    {'w': jnp.float32(0)}, batch(cfg), step_lib.step_keys(0, 0), cfg
  )
  return network.seen.pop()[1]


def test_readings_of_the_augmentation(tiny, network):
  """A level a batch; noise of the low-res image; the other kernel."""
  own = lowres_seen(network, tiny)
  shared = lowres_seen(network, tiny, 'aug_per=batch')
  assert len(set(np.asarray(shared.aug_logsnr).tolist())) == 1
  assert np.abs(shared.lowres - own.lowres).mean() > 0.1
  before = lowres_seen(network, tiny, 'aug_noise=before')
  np.testing.assert_array_equal(before.aug_logsnr, own.aug_logsnr)
  noisy = int(jnp.argmin(own.aug_logsnr))
  # Enlarged noise is smooth: 0.625 of its deviation, between pixels.
  ratio = before.lowres[noisy].std() / own.lowres[noisy].std()
  assert 0.5 < ratio < 0.75
  # The image is one grey, of which every kernel makes the same.
  cubic = lowres_seen(network, tiny, 'aug_kernel=bicubic')
  np.testing.assert_allclose(cubic.lowres, own.lowres, atol=1e-5)
  cubic = lowres_seen(network, tiny, 'aug_kernel=bicubic', 'aug_noise=before')
  assert np.abs(cubic.lowres - before.lowres).mean() > 0.01


def test_edm_scales_what_the_network_is_trained_on(tiny, monkeypatch):
  """c_in z, and not z: EDM, table 1, of our variance-preserving z."""
  seen = []

  class Watches:
    def apply(self, variables, z, logsnr, cond, **_):
      seen.append((z, logsnr))
      return 0 * z

  monkeypatch.setattr(state_lib, 'make_network', lambda stage: Watches())
  changes = ['prediction=edm', 'sigma_data=0.3', 'self_condition=true']
  cfg = config_lib.override(
    config_lib.load(tiny), [f'stage.diffusion.{c}' for c in changes]
  )
  losses(cfg)
  logsnr = np.asarray(seen[0][1], float)[:, None, None, None]
  alpha, sigma = (1 / np.sqrt(1 + np.exp(sign * logsnr)) for sign in (-1, 1))
  image = batch(cfg).image
  noise = step_lib.step_keys(0, 0)['noise']
  eps = np.asarray(jax.random.normal(noise, image.shape))
  z = alpha * np.asarray(image) + sigma * eps
  c_in = 1 / np.sqrt(sigma**2 + (0.3 * alpha) ** 2)
  # Which is far from 1 where there is little noise.
  assert c_in.max() > 2
  # The first estimate of self-conditioning is made of the same.
  assert len(seen) == 2
  for given, _ in seen:
    np.testing.assert_allclose(given, c_in * z, rtol=1e-3, atol=1e-4)


def test_dropout_is_on_where_the_config_has_it(tiny, network):
  cfg = config_lib.override(config_lib.load(tiny), ['stage.unet.dropout=0.5'])
  keys = step_lib.step_keys(0, 0)
  dropout = jax.random.key_data(keys['dropout'])
  step_lib.loss_fn({'w': jnp.float32(0)}, batch(cfg), keys, cfg)
  _, _, deterministic, rngs = network.seen[0]
  assert not deterministic
  np.testing.assert_array_equal(jax.random.key_data(rngs['dropout']), dropout)


def test_a_step_updates_counts_and_averages(tiny, network):
  cfg = config_lib.load(tiny)
  tx = optax.sgd(0.5)
  before = state(tx)
  average = 0.5
  for step in range(12):
    grads, _ = jax.grad(step_lib.loss_fn, has_aux=True)(
      before.params, batch(cfg), step_lib.step_keys(0, step), cfg
    )
    after, metrics = step_lib.train_step(before, batch(cfg), config=cfg, tx=tx)
    assert int(after.step) == step + 1
    assert after.step.dtype == jnp.int32
    expected = before.params['w'] - 0.5 * grads['w']
    np.testing.assert_allclose(after.params['w'], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics['grad_norm'], abs(grads['w']), rtol=1e-5)
    # (1 + n) / (10 + n) rises to the configured 0.9 at n = 80.
    decay = min(0.9, (2 + step) / (11 + step))
    average = decay * average + (1 - decay) * float(after.params['w'])
    np.testing.assert_allclose(after.ema_params['w'], average, rtol=1e-5)
    before = after


def test_the_average_keeps_to_the_configured_decay(tiny, network):
  cfg = config_lib.load(tiny)
  tx = optax.sgd(0.0)
  before = state(tx).replace(
    step=jnp.int32(1000), ema_params={'w': jnp.float32(1.5)}
  )
  after, _ = step_lib.train_step(before, batch(cfg), config=cfg, tx=tx)
  np.testing.assert_allclose(after.ema_params['w'], 0.5 + 0.9, rtol=1e-6)


def test_metrics_describe_the_state_before_the_update(tiny, network):
  cfg = config_lib.load(tiny)
  tx = optax.sgd(0.5)
  _, metrics = step_lib.train_step(state(tx), batch(cfg), config=cfg, tx=tx)
  loss, _ = step_lib.loss_fn(
    {'w': jnp.float32(0.5)}, batch(cfg), step_lib.step_keys(0, 0), cfg
  )
  np.testing.assert_array_equal(metrics['loss'], loss)


@pytest.mark.parametrize('row', ['base', 'sr'])
def test_microbatches_add_up_to_the_same_step(row, tiny, network):
  """Each part with its own rows of what is drawn, and of what is given."""
  cfg = config_lib.override(
    config_lib.load(f'{tiny}:{row}'), ['stage.diffusion.self_condition=true']
  )
  some = batch(cfg)
  # Rows that differ, so that a loss of another's is another loss.
  shades = jnp.linspace(-1, 1, 16)[:, None, None, None]
  some = some.replace(image=some.image * shades)
  params = {'w': jnp.float32(0.7)}
  whole = step_lib.gradients(params, some, step_lib.step_keys(0, 3), cfg)
  parts = config_lib.override(cfg, ['train.batch_size=16'])
  parts = config_lib.override(parts, ['train.microbatches=4'])
  found = step_lib.gradients(params, some, step_lib.step_keys(0, 3), parts)
  jax.tree.map(
    # The least of them are sums of terms that are a thousand times as large.
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    found,
    whole,
  )


def test_microbatches_that_do_not_divide_over_the_mesh_are_refused(tiny):
  cfg = config_lib.override(
    config_lib.load(tiny), ['train.batch_size=24', 'train.microbatches=2']
  )
  mesh = sharding.make_mesh(cfg.mesh)
  with pytest.raises(ValueError, match='train.microbatches is 2 .* divides 3'):
    step_lib.compile_step(cfg, optax.sgd(0.5), None, mesh)


def losses(cfg, w=0.5, size=16, step=0):
  return step_lib.loss_fn(
    {'w': jnp.float32(w)}, batch(cfg, size), step_lib.step_keys(0, step), cfg
  )


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
