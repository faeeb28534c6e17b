"""One step: keys, loss and its parts, the average of weights."""

import jax
import jax.numpy as jnp
import numpy as np
from one_weight import batch
from one_weight import losses
from one_weight import state
import optax
import pytest

from imagen_jax import cascade
from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


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
