"""Samplers, against data whose best denoiser is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import process
from imagen_jax.diffusion import sampler
from imagen_jax.diffusion import schedule
from imagen_jax.diffusion import spacing

MEAN = np.array([0.6, -0.3])
COVARIANCE = np.array([[0.5, 0.24], [0.24, 0.2]])
NUM_IMAGES = 10_000
NUM_STEPS = 400
SAMPLERS = [
  {'sampler': 'ancestral', 'gamma': 0.0},
  {'sampler': 'ancestral', 'gamma': 0.5},
  {'sampler': 'ancestral', 'gamma': 1.0},
  {'sampler': 'ddim'},
]


def gaussian_denoise(z, logsnr, *_):
  """E[x | z] where x, [B, 1, 1, 2], is normal with MEAN and COVARIANCE."""
  alpha, sigma = (a[:, None] for a in process.alpha_sigma(logsnr))
  variance, axes = np.linalg.eigh(COVARIANCE)
  gain = alpha * variance[None] / (alpha**2 * variance[None] + sigma**2)
  off = (z[:, 0, 0] - alpha * MEAN[None]) @ axes
  return (MEAN[None] + (gain * off) @ axes.T)[:, None, None]


def moments(*, num_steps=NUM_STEPS, time=schedule.cosine, **options):
  """Mean and covariance of samples of the Gaussian."""
  draw = functools.partial(
    sampler.sample,
    gaussian_denoise,
    shape=(1, 1, 2),
    logsnr=spacing.by_time(num_steps, schedule=time),
    **options,
  )
  keys = jax.random.split(jax.random.key(0), NUM_IMAGES)
  x = np.asarray(jax.jit(draw)(keys), np.float64)[:, 0, 0]
  return x.mean(0), np.cov(x.T)


def check_moments(mean, covariance):
  """Compares with MEAN and COVARIANCE.

  The tolerance is four standard errors of n samples (for a covariance, of
  variance (C_ii C_jj + C_ij^2) / n), and 1.5% for the finite steps.
  """
  variance = np.diag(COVARIANCE)
  error = 4 * np.sqrt(variance / NUM_IMAGES)
  np.testing.assert_array_less(np.abs(mean - MEAN), error)
  error = np.sqrt((np.outer(variance, variance) + COVARIANCE**2) / NUM_IMAGES)
  np.testing.assert_array_less(
    np.abs(covariance - COVARIANCE), 4 * error + 0.015 * np.abs(COVARIANCE)
  )


@pytest.mark.parametrize('options', SAMPLERS)
def test_reproduces_a_gaussian(options):
  check_moments(*moments(**options))


def test_reproduces_a_gaussian_by_the_linear_schedule():
  check_moments(*moments(time=schedule.linear, gamma=0.5))


def _without_noise(step):
  def wrong(x_hat, z_t, noise, *args, **options):
    return step(x_hat, z_t, 0 * noise, *args, **options)

  return wrong


def _variance_for_deviation(_):
  def wrong(x_hat, z_t, noise, *args, gamma):
    mean, variance = process.posterior(x_hat, z_t, *args)
    return mean + variance * noise

  return wrong


def _scales_swapped(step):
  def wrong(x_hat, z_t, noise, logsnr_t, logsnr_s, **options):
    return step(x_hat, z_t, noise, logsnr_t, -logsnr_s, **options)

  return wrong


@pytest.mark.parametrize(
  'mutate', [_without_noise, _variance_for_deviation, _scales_swapped]
)
def test_a_wrong_ancestral_step_is_found(monkeypatch, mutate):
  wrong = mutate(sampler.ancestral_step)
  monkeypatch.setattr(sampler, 'ancestral_step', wrong)
  with pytest.raises(AssertionError):
    check_moments(*moments(num_steps=50, sampler='ancestral'))


def test_a_wrong_ddim_step_is_found(monkeypatch):
  def wrong(x_hat, z_t, logsnr_t, logsnr_s):
    eps_hat = process.from_x('v', x_hat, z_t, logsnr_t)
    return process.diffuse(x_hat, eps_hat, logsnr_s)

  monkeypatch.setattr(sampler, 'ddim_step', wrong)
  with pytest.raises(AssertionError):
    check_moments(*moments(sampler='ddim'))


def test_gamma_orders_the_spread():
  """At few steps the posterior's variance is too small, the forward's large.

  The two bracket the truth (Ho et al., 2020, section 3.2), so that swapped
  ends would show.
  """
  spread = [
    np.trace(moments(num_steps=12, sampler='ancestral', gamma=gamma)[1])
    for gamma in (0.0, 0.5, 1.0)
  ]
  assert spread[0] < 0.97 * spread[1] < 0.97**2 * spread[2]
  assert spread[0] < 0.97 * np.trace(COVARIANCE)


def two_times():
  """x_hat, z_t, and log-SNRs at t and at s < t; a pair a row."""
  key_x, key_z = jax.random.split(jax.random.key(5))
  x_hat = jax.random.normal(key_x, (4, 2, 2, 3))
  z_t = jax.random.normal(key_z, (4, 2, 2, 3))
  logsnr_t = jnp.array([-19.0, -2.0, 0.5, 4.0])
  return x_hat, z_t, logsnr_t, logsnr_t + jnp.array([3.0, 0.1, 1.0, 9.0])


@pytest.mark.parametrize('gamma', [0.0, 0.3, 1.0])
def test_ancestral_step_is_equation_6(gamma):
  x_hat, z_t, logsnr_t, logsnr_s = two_times()
  still = sampler.ancestral_step(x_hat, z_t, 0 * z_t, logsnr_t, logsnr_s)
  moved = sampler.ancestral_step(
    x_hat, z_t, jnp.ones_like(z_t), logsnr_t, logsnr_s, gamma=gamma
  )
  # In float64, as the paper prints it.
  r = np.exp(np.float64(logsnr_t) - np.float64(logsnr_s))
  var_t, var_s = (
    1 / (1 + np.exp(np.float64(logsnr))) for logsnr in (logsnr_t, logsnr_s)
  )
  var_step = (1 - r) * var_t
  var_posterior = (1 - r) * var_s
  std = np.sqrt(var_posterior ** (1 - gamma) * var_step**gamma)
  alpha_t, alpha_s = np.sqrt(1 - var_t), np.sqrt(1 - var_s)
  wide = lambda value: value[:, None, None, None]
  mean = wide(r * alpha_s / alpha_t) * z_t + wide((1 - r) * alpha_s) * x_hat
  np.testing.assert_allclose(still, mean, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    moved - still, np.broadcast_to(wide(std), z_t.shape), rtol=1e-3, atol=1e-6
  )


def test_ddim_step_with_the_truth_is_on_the_path():
  x, eps, logsnr_t, logsnr_s = two_times()
  z_t = process.diffuse(x, eps, logsnr_t)
  np.testing.assert_allclose(
    sampler.ddim_step(x, z_t, logsnr_t, logsnr_s),
    process.diffuse(x, eps, logsnr_s),
    atol=1e-4,
  )


def test_ancestral_mean_against_ddim():
  """Its coefficient of z_t - alpha_t x_hat is sqrt(r) times DDIM's."""
  x_hat, z_t, logsnr_t, logsnr_s = two_times()
  around = process.diffuse(x_hat, 0 * x_hat, logsnr_s)
  ancestral = sampler.ancestral_step(x_hat, z_t, 0 * z_t, logsnr_t, logsnr_s)
  ddim = sampler.ddim_step(x_hat, z_t, logsnr_t, logsnr_s)
  root = jnp.exp(0.5 * process.broadcast(logsnr_t - logsnr_s, z_t))
  np.testing.assert_allclose(
    ancestral - around, root * (ddim - around), rtol=1e-3, atol=1e-5
  )


@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0])
def test_a_step_of_no_length_stays(gamma):
  """As where the schedule is clipped."""
  x_hat, z_t, logsnr, _ = two_times()
  noise = jnp.ones_like(z_t)
  found = sampler.ancestral_step(x_hat, z_t, noise, logsnr, logsnr, gamma=gamma)
  np.testing.assert_allclose(found, z_t, atol=1e-5)
  found = sampler.ddim_step(x_hat, z_t, logsnr, logsnr)
  np.testing.assert_allclose(found, z_t, atol=1e-5)


def draw(keys, *, num_steps=3, denoise=None, **options):
  keep = lambda z, logsnr, *_: process.broadcast(jnp.tanh(logsnr), z) * z
  sample = functools.partial(
    sampler.sample,
    denoise or keep,
    shape=(2, 2, 3),
    logsnr=spacing.by_time(num_steps, schedule=schedule.cosine),
    **options,
  )
  return jax.jit(sample)(keys)


@pytest.mark.parametrize('options', [SAMPLERS[1], SAMPLERS[3]])
def test_an_image_depends_on_its_key_alone(options):
  keys = jax.random.split(jax.random.key(6), 5)
  together = draw(keys, **options)
  np.testing.assert_array_equal(together, draw(keys, **options))
  alone = draw(keys[3:4], **options)
  np.testing.assert_allclose(together[3:4], alone, rtol=1e-5, atol=1e-5)
  again = draw(keys[jnp.array([0, 3, 0, 1, 2])], **options)
  np.testing.assert_array_equal(again[0], again[2])
  assert np.abs(again[0] - again[1]).max() > 1e-2


@pytest.mark.parametrize('options', [SAMPLERS[0], SAMPLERS[3]])
@pytest.mark.parametrize('num_steps', [1, 5])
def test_calls_the_network_at_each_step(options, num_steps):
  seen = []

  def denoise(z, logsnr, *_):
    jax.debug.callback(lambda a: seen.append(np.asarray(a)), logsnr)
    return jnp.zeros_like(z) + process.broadcast(logsnr, z)

  keys = jax.random.split(jax.random.key(8), 2)
  x = draw(keys, num_steps=num_steps, denoise=denoise, **options)
  jax.effects_barrier()
  t = np.linspace(1.0, 0.0, num_steps + 1)[:-1]
  expected = np.asarray(schedule.cosine(jnp.asarray(t, jnp.float32)))
  found = np.sort(np.array(seen), axis=0)
  np.testing.assert_allclose(found, expected[:, None] * np.ones(2), 1e-6)
  # The result is the last x_hat itself, without noise.
  np.testing.assert_allclose(x, np.full(x.shape, expected[-1]), rtol=1e-6)


def test_traces_the_network_once():
  calls = []

  def denoise(z, logsnr, *_):
    calls.append(logsnr)
    return z

  keys = jax.random.split(jax.random.key(9), 2)
  jax.make_jaxpr(lambda k: draw(k, num_steps=5, denoise=denoise))(keys)
  assert len(calls) == 1


def test_noise_is_fresh_at_each_step():
  """With x_hat = 0, z of the last call is a sum of draws that must differ."""
  last = []

  def denoise(z, logsnr, *_):
    jax.debug.callback(lambda z: last.append(np.asarray(z)), z, ordered=True)
    return jnp.zeros_like(z)

  keys = jax.random.split(jax.random.key(10), 4)
  draw(keys, num_steps=3, denoise=denoise, gamma=1.0)
  jax.effects_barrier()
  flat = np.array(last).reshape(3, -1)
  first, middle = flat[0], flat[1]
  # The first step, from log-SNR -20, forgets z entirely but for new noise.
  assert abs(np.corrcoef(first, middle)[0, 1]) < 0.5


def test_refuses_another_sampler():
  keys = jax.random.split(jax.random.key(11), 1)
  words = "sampler is 'euler'; accepted: 'ancestral', 'ddim'"
  with pytest.raises(ValueError, match=words):
    draw(keys, sampler='euler')
