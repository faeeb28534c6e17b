"""The noise process: conversions, the posterior, and their ends."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import process
from imagen_jax.diffusion import schedule

KINDS = ('x', 'eps', 'v', 'edm')
SHAPE = (7, 4, 4, 3)
LOGSNR = jnp.linspace(-6.0, 6.0, 7)


def normal(*names):
  """Arrays of `SHAPE` by name, each of a key of its own."""
  keys = jax.random.split(jax.random.key(0), len(names))
  return [jax.random.normal(key, SHAPE) for key in keys]


def test_alpha_and_sigma():
  logsnr = jnp.linspace(-20.0, 20.0, 41)
  alpha, sigma = process.alpha_sigma(logsnr)
  np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)
  np.testing.assert_allclose(2 * jnp.log(alpha / sigma), logsnr, atol=1e-5)
  # The larger is the signal's where there is more signal.
  assert alpha[-1] > sigma[-1] and alpha[0] < sigma[0]


def test_diffuse_is_per_example():
  x, eps = normal('x', 'eps')
  z = process.diffuse(x, eps, LOGSNR)
  for i, logsnr in enumerate(LOGSNR):
    alpha = np.sqrt(1 / (1 + np.exp(-float(logsnr))))
    expected = alpha * x[i] + np.sqrt(1 - alpha**2) * eps[i]
    np.testing.assert_allclose(z[i], expected, atol=1e-5)


def test_diffuse_refuses_a_log_snr_of_another_batch():
  x, eps = normal('x', 'eps')
  with pytest.raises(AssertionError, match='shape'):
    process.diffuse(x, eps, LOGSNR[:1])


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('other', KINDS)
def test_conversions_round_trip(kind, other):
  out, z = normal('out', 'z')
  x = process.to_x(kind, out, z, LOGSNR)
  there = process.from_x(other, x, z, LOGSNR)
  x = process.to_x(other, there, z, LOGSNR)
  back = process.from_x(kind, x, z, LOGSNR)
  chex.assert_trees_all_close(back, out, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize('kind', KINDS)
def test_conversions_of_the_truth(kind):
  x, eps = normal('x', 'eps')
  z = process.diffuse(x, eps, LOGSNR)
  alpha, sigma = process.alpha_sigma(process.broadcast(LOGSNR, x))
  # EDM's own table, for an image y with noise of scale s added; 0.5 is the
  # deviation of its data.
  y, s = z / alpha, sigma / alpha
  skip, out = 0.25 / (s**2 + 0.25), 0.5 * s / (s**2 + 0.25) ** 0.5
  edm = (x - skip * y) / out
  truth = {'x': x, 'eps': eps, 'v': alpha * eps - sigma * x, 'edm': edm}[kind]
  x_hat = process.to_x(kind, truth, z, LOGSNR)
  np.testing.assert_allclose(x_hat, x, atol=1e-4)
  out = process.from_x(kind, x, z, LOGSNR)
  np.testing.assert_allclose(out, truth, atol=1e-4)
  found = process.target(kind, x, eps, LOGSNR)
  np.testing.assert_allclose(found, truth, atol=1e-4)


@pytest.mark.parametrize(
  'convert', [process.to_x, process.from_x, process.target]
)
def test_refuses_another_kind(convert):
  out, z = normal('out', 'z')
  words = "prediction is 'noise'; accepted: 'x', 'eps', 'v'"
  with pytest.raises(ValueError, match=words):
    convert('noise', out, z, LOGSNR)


def test_posterior_after_diffusion_gives_the_marginal():
  """The mean and variance of z_s, worked out in float64 from the parts.

  The posterior's mean is linear in x and z_t. With z_t = alpha_t x + sigma_t
  eps, z_s must come out as alpha_s x, with variance sigma_s^2.
  """
  logsnr_t = jnp.linspace(-19.0, 10.0, 7)
  logsnr_s = logsnr_t + jnp.array([1e-3, 0.01, 0.1, 0.5, 1.0, 3.0, 9.0])
  one, zero = jnp.ones((7, 1, 1, 1)), jnp.zeros((7, 1, 1, 1))
  of_x, variance = process.posterior(one, zero, logsnr_t, logsnr_s)
  of_z, _ = process.posterior(zero, one, logsnr_t, logsnr_s)
  alpha_t, sigma_t = process.alpha_sigma(process.broadcast(logsnr_t, one))
  alpha_s, sigma_s = process.alpha_sigma(process.broadcast(logsnr_s, one))
  np.testing.assert_allclose(of_x + of_z * alpha_t, alpha_s, rtol=1e-5)
  np.testing.assert_allclose(
    (of_z * sigma_t) ** 2 + variance, sigma_s**2, rtol=1e-5
  )


def test_posterior_is_that_of_a_gaussian():
  """Against the product of q(z_s | x) and q(z_t | z_s), in float64."""
  logsnr_t, logsnr_s = -1.3, 0.4
  alpha_t, alpha_s = (1 / (1 + np.exp(-np.array([logsnr_t, logsnr_s])))) ** 0.5
  var_t, var_s = 1 - alpha_t**2, 1 - alpha_s**2
  step = alpha_t / alpha_s
  var_step = var_t - step**2 * var_s
  precision = 1 / var_s + step**2 / var_step
  x, z = 0.7, -0.2
  mean = (alpha_s * x / var_s + step * z / var_step) / precision

  whole = lambda value: jnp.full((1, 1, 1, 1), value)
  found_mean, found_var = process.posterior(
    whole(x), whole(z), jnp.array([logsnr_t]), jnp.array([logsnr_s])
  )
  np.testing.assert_allclose(found_mean, mean, rtol=1e-5)
  np.testing.assert_allclose(found_var, 1 / precision, rtol=1e-5)


def test_posterior_of_a_short_step_keeps_its_digits():
  logsnr_t = jnp.full((1,), -5.0)
  one = jnp.ones((1, 1, 1, 1))
  _, variance = process.posterior(one, one, logsnr_t, logsnr_t + 2.0**-15)
  sigma_sq = 1 / (1 + np.exp(-5.0))
  # exp(-5 + 5) and 1 - exp(...) would have four digits left.
  np.testing.assert_allclose(variance, sigma_sq * 2.0**-15, rtol=5e-5)


@pytest.mark.parametrize('name', schedule.SCHEDULES)
@pytest.mark.parametrize('kind', KINDS)
def test_the_ends_are_finite(name, kind):
  logsnr = schedule.SCHEDULES[name](jnp.array([0.0, 1.0]))
  x, eps = (a[:2] for a in normal('x', 'eps'))

  def convert(x, eps):
    z = process.diffuse(x, eps, logsnr)
    out = process.from_x(kind, x, z, logsnr)
    mean, variance = process.posterior(x, z, logsnr[::-1], logsnr)
    back = process.to_x(kind, out, z, logsnr)
    return z, out, back, mean[:1], variance[:1]

  outputs, pull = jax.vjp(convert, x, eps)
  for leaf in jax.tree.leaves((outputs, pull(outputs))):
    assert leaf.dtype == jnp.float32
    assert np.all(np.isfinite(leaf))


def test_edm_of_unit_data_is_v():
  """F is -v, and the network's input is z."""
  out, z = normal('out', 'z')
  found = process.to_x('edm', out, z, LOGSNR, 1.0)
  np.testing.assert_allclose(
    found, process.to_x('v', -out, z, LOGSNR), atol=1e-5
  )
  scaled = process.scale_input('edm', z, LOGSNR, 1.0)
  np.testing.assert_allclose(scaled, z, rtol=1e-5)


@pytest.mark.parametrize('sigma_data', [0.25, 0.5, 1.0])
def test_edm_gives_a_network_unit_variance(sigma_data):
  """At its input, and of what it is to say, at every noise level."""
  keys = jax.random.split(jax.random.key(1), 2)
  x, eps = (jax.random.normal(key, (7, 64, 64, 3)) for key in keys)
  x = sigma_data * x
  z = process.diffuse(x, eps, LOGSNR)
  scaled = process.scale_input('edm', z, LOGSNR, sigma_data)
  out = process.from_x('edm', x, z, LOGSNR, sigma_data)
  for each in (scaled, out):
    np.testing.assert_allclose(each.std((1, 2, 3)), 1, atol=0.03)


@pytest.mark.parametrize('kind', ['x', 'eps', 'v'])
def test_other_networks_are_given_z_itself(kind):
  (z,) = normal('z')
  assert process.scale_input(kind, z, LOGSNR, 0.5) is z


def test_renoising_gives_the_marginal():
  """q(z_t | z_s) after q(z_s | x): the scale of x and the variance of z_t."""
  logsnr_s = jnp.linspace(-6.0, 18.0, 7)
  logsnr_t = logsnr_s - jnp.array([0.0, 1e-3, 0.1, 0.5, 1.0, 3.0, 30.0])
  one, zero = jnp.ones((7, 1, 1, 1)), jnp.zeros((7, 1, 1, 1))
  of_z = process.renoise(one, zero, logsnr_s, logsnr_t)
  of_noise = process.renoise(zero, one, logsnr_s, logsnr_t)
  scales = [process.broadcast(a, one) for a in (logsnr_s, logsnr_t)]
  (alpha_s, sigma_s), (alpha_t, sigma_t) = map(process.alpha_sigma, scales)
  np.testing.assert_allclose(of_z * alpha_s, alpha_t, rtol=1e-5)
  np.testing.assert_allclose(
    (of_z * sigma_s) ** 2 + of_noise**2, sigma_t**2, rtol=1e-4
  )
  # No step is no noise.
  assert of_z[0] == 1 and of_noise[0] == 0


@pytest.mark.parametrize('kind', ['x', 'v', 'edm'])
def test_no_signal_at_all_is_finite(kind):
  """At the end of a zero-terminal schedule."""
  x, eps = (a[:1] for a in normal('x', 'eps'))
  logsnr = jnp.full(1, schedule.NO_SIGNAL)
  z = process.diffuse(x, eps, logsnr)
  np.testing.assert_array_equal(z, eps)
  out = process.from_x(kind, x, z, logsnr)
  np.testing.assert_allclose(process.to_x(kind, out, z, logsnr), x, atol=1e-5)
  mean, variance = process.posterior(x, z, logsnr, jnp.full(1, -3.0))
  assert np.all(np.isfinite(mean)) and np.all(variance > 0)
