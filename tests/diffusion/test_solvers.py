"""Solvers of higher order: how fast they converge, and what they draw.

Gaussian data have a closed form of the path from noise to image, and Gaussian
mixtures a closed form of the denoiser.
"""

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
VARIANCE = np.array([0.5, 0.04])
SIGMA = {'sigma_min': 0.002, 'sigma_max': 80.0}


def gaussian(z, logsnr, *_):
  """E[x | z] where the two of x, [B, 1, 1, 2], are normal, independent."""
  alpha, sigma = (process.broadcast(a, z) for a in process.alpha_sigma(logsnr))
  mean, variance = (
    jnp.asarray(a, jnp.float32)[None, None, None] for a in (MEAN, VARIANCE)
  )
  gain = alpha * variance / (alpha**2 * variance + sigma**2)
  return mean + gain * (z - alpha * mean)


def steps(kind, num_steps):
  if kind == 'time':
    return spacing.by_time(num_steps, schedule=schedule.cosine)
  if kind == 'logsnr':
    return spacing.by_logsnr(num_steps, **SIGMA)
  return spacing.by_sigma(num_steps, rho=7.0, **SIGMA)


def draw(denoise, keys, logsnr, channels=2, **options):
  sample = functools.partial(
    sampler.sample, denoise, shape=(1, 1, channels), **options
  )
  return np.asarray(jax.jit(sample)(keys, logsnr=logsnr), float)[:, 0, 0]


def path_error(kind, num_steps, **options):
  """Root mean square distance from where the exact path leads."""
  keys = jax.random.split(jax.random.key(0), 256)
  logsnr = steps(kind, num_steps)
  found = draw(gaussian, keys, logsnr, **options)
  noise = jax.vmap(
    lambda key: jax.random.normal(jax.random.fold_in(key, 0), (2,))
  )(keys)
  # On the path, z keeps its place within the marginal of its noise level.
  alpha = np.sqrt(1 / (1 + np.exp(-float(logsnr[0]))))
  spread = np.sqrt(alpha**2 * VARIANCE + 1 - alpha**2)
  place = (np.asarray(noise, float) - alpha * MEAN) / spread
  return np.sqrt(np.mean((found - MEAN - np.sqrt(VARIANCE) * place) ** 2))


@pytest.mark.parametrize(
  'name, kind, order',
  [
    ('ddim', 'time', 1),
    ('ddim', 'karras', 1),
    ('dpmpp', 'logsnr', 2),
    ('dpmpp', 'karras', 2),
    ('heun', 'karras', 2),
  ],
)
def test_order_of_convergence(name, kind, order):
  """Twice the steps divide the error by 2^order.

  By equal steps of time, the lengths of steps in log-SNR grow without bound
  toward both ends, and 'dpmpp' is between first and second order.
  """
  errors = [path_error(kind, n, sampler=name) for n in (16, 32, 64)]
  measured = np.log2(np.array(errors[:-1]) / errors[1:])
  np.testing.assert_allclose(measured, order, atol=0.35)


def test_second_order_is_worth_its_calls():
  """At as many calls of the network, 64; with fewer Heun's is not, here."""
  ddim = path_error('karras', 64, sampler='ddim')
  assert path_error('karras', 64, sampler='dpmpp') < ddim / 10
  assert path_error('karras', 32, sampler='heun') < ddim / 2.5


CENTRES = np.array([-0.7, 0.5])
SHARES = np.array([0.3, 0.7])
WIDTH = 0.1


def mixture(z, logsnr, *_):
  """E[x | z] where x, [B, 1, 1, 1], is of one of two narrow Gaussians."""
  alpha, sigma = (process.broadcast(a, z) for a in process.alpha_sigma(logsnr))
  centres = jnp.asarray(CENTRES, jnp.float32)[None, None, None]
  shares = jnp.asarray(SHARES, jnp.float32)[None, None, None]
  off = z - alpha * centres
  variance = (alpha * WIDTH) ** 2 + sigma**2
  belief = jax.nn.softmax(jnp.log(shares) - off**2 / (2 * variance), axis=-1)
  each = centres + alpha * WIDTH**2 / variance * off
  return (belief * each).sum(-1, keepdims=True)


NUM_IMAGES = 8000


def check_mixture(x, *, steps=0.02):
  """Share, centre and width of both, to four standard errors.

  Beside them a share may be 0.02 off, and a width as much as `steps` are few.
  """
  right = x > -0.1
  error = 4 * np.sqrt(SHARES.prod() / NUM_IMAGES)
  assert abs(right.mean() - SHARES[1]) < error + 0.02
  for side, centre in ((~right, CENTRES[0]), (right, CENTRES[1])):
    count = side.sum()
    assert abs(x[side].mean() - centre) < 4 * WIDTH / np.sqrt(count) + 0.002
    assert abs(x[side].std() / WIDTH - 1) < 4 / np.sqrt(2 * count) + steps


@pytest.mark.parametrize(
  'kind, num_steps, options',
  [
    ('time', 300, {'sampler': 'ancestral'}),
    ('time', 100, {'sampler': 'ddim'}),
    ('time', 40, {'sampler': 'dpmpp'}),
    ('time', 100, {'sampler': 'dpmpp_sde'}),
    ('karras', 40, {'sampler': 'heun'}),
    (
      'karras',
      60,
      {'sampler': 'heun', 'churn': sampler.Churn(amount=20.0, sigma_min=0.05)},
    ),
  ],
)
def test_draws_a_mixture(kind, num_steps, options):
  keys = jax.random.split(jax.random.key(1), NUM_IMAGES)
  x = draw(mixture, keys, steps(kind, num_steps), channels=1, **options)
  # Equal steps of time are long where so narrow a Gaussian is resolved.
  check_mixture(x[:, 0], steps=0.08 if kind == 'time' else 0.02)


def test_too_few_steps_do_not_draw_it():
  keys = jax.random.split(jax.random.key(1), NUM_IMAGES)
  x = draw(mixture, keys, steps('time', 8), channels=1, sampler='ddim')
  with pytest.raises(AssertionError):
    check_mixture(x[:, 0], steps=0.08)


def spread_error(name, num_steps):
  keys = jax.random.split(jax.random.key(2), NUM_IMAGES)
  x = draw(gaussian, keys, steps('time', num_steps), sampler=name)
  return np.abs(x.var(0) / VARIANCE - 1).max()


def test_the_stochastic_solver_needs_fewer_steps_than_the_ancestral():
  # Of 8000 samples, a variance is known to 1.6%.
  ancestral, sde = (spread_error(s, 24) for s in ('ancestral', 'dpmpp_sde'))
  assert ancestral > 0.15
  assert sde < 0.08


def test_churn_raises_sigma_by_a_bounded_share():
  """EDM, algorithm 2: by S_churn / N, and sqrt 2 - 1 at most, in its band."""
  logsnr = jnp.array([-4.0, -2.0, 0.0, 2.0, 4.0])  # Sigma e^2 to e^-2.
  band = {'sigma_min': 0.5, 'sigma_max': 3.0}
  found = sampler.Churn(amount=0.4, **band).shares(logsnr)
  np.testing.assert_allclose(found, [0, 0.1, 0.1, 0], rtol=1e-6)
  found = sampler.Churn(amount=1e3, **band).shares(logsnr)
  np.testing.assert_allclose(found, [0, 2**0.5 - 1, 2**0.5 - 1, 0], rtol=1e-6)


def test_churn_is_noise_of_its_own():
  keys = jax.random.split(jax.random.key(3), 64)
  logsnr = steps('karras', 12)
  plain = draw(gaussian, keys, logsnr, sampler='heun')
  options = {'sampler': 'heun', 'churn': sampler.Churn(amount=8.0)}
  churned = draw(gaussian, keys, logsnr, **options)
  assert np.abs(churned - plain).mean() > 0.01
  np.testing.assert_array_equal(
    churned, draw(gaussian, keys, logsnr, **options)
  )
  # No step of sigma 80 to 0.002 lies in this band.
  outside = sampler.Churn(amount=8.0, sigma_min=100.0)
  still = draw(gaussian, keys, logsnr, sampler='heun', churn=outside)
  np.testing.assert_allclose(still, plain, atol=1e-5)


def test_going_back_is_not_scaled_as_churn_is():
  keys = jax.random.split(jax.random.key(3), 64)
  options = {'sampler': 'heun', 'repeats': 2}
  plain = draw(gaussian, keys, steps('karras', 12), **options)
  # The band is above all steps.
  outside = sampler.Churn(amount=8.0, sigma_min=100.0, noise=3.0)
  still = draw(gaussian, keys, steps('karras', 12), churn=outside, **options)
  np.testing.assert_allclose(still, plain, atol=1e-5)


def test_churn_is_algorithm_2():
  """One step from sigma to 0 of EDM's, in its coordinates, in float64."""
  logsnr = jnp.array([-2.0, 1.0, 1.0])
  churn = sampler.Churn(amount=0.6, noise=1.1)
  keys = jax.random.split(jax.random.key(4), 5)
  seen = []

  def watch(z, logsnr, *_):
    note = lambda *arrays: seen.append([np.asarray(a, float) for a in arrays])
    jax.debug.callback(note, z, logsnr, ordered=True)
    return 0.3 * z

  draw(watch, keys, logsnr, sampler='heun', churn=churn)
  jax.effects_barrier()
  assert len(seen) == 3
  sigma, sigma_next = np.exp([1.0, -0.5])
  raised = sigma * (1 + 0.6 / 2)
  np.testing.assert_allclose(np.exp(-0.5 * seen[0][1]), raised, rtol=1e-5)
  np.testing.assert_allclose(np.exp(-0.5 * seen[1][1]), sigma_next, rtol=1e-5)
  noise = lambda key, *folds: jax.random.normal(
    functools.reduce(jax.random.fold_in, folds, key), (1, 1, 2)
  )
  first = np.array([noise(key, 0) for key in keys], float)
  added = np.array([noise(key, sampler._RENOISE, 1) for key in keys], float)
  y = first * np.hypot(1, sigma) + 1.1 * np.sqrt(raised**2 - sigma**2) * added
  np.testing.assert_allclose(seen[0][0] * np.hypot(1, raised), y, rtol=1e-4)
  slope = (y - 0.3 * y / np.hypot(1, raised)) / raised
  ahead = y + (sigma_next - raised) * slope
  np.testing.assert_allclose(
    seen[1][0] * np.hypot(1, sigma_next), ahead, rtol=1e-3, atol=1e-4
  )
  second = (ahead - 0.3 * ahead / np.hypot(1, sigma_next)) / sigma_next
  y = y + (sigma_next - raised) * (slope + second) / 2
  # The last step, which starts from the third call, is churned as well.
  added = np.array([noise(key, sampler._RENOISE, 3) for key in keys], float)
  last = sigma_next * (1 + 0.6 / 2)
  y = y + 1.1 * np.sqrt(last**2 - sigma_next**2) * added
  np.testing.assert_allclose(
    seen[2][0] * np.hypot(1, last), y, rtol=1e-3, atol=1e-4
  )
