"""The noise process: conversions, the posterior, and their ends."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import process
from imagen_jax.diffusion import schedule

KINDS = ('x', 'eps', 'v')
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
  truth = {'x': x, 'eps': eps, 'v': alpha * eps - sigma * x}[kind]
  x_hat = process.to_x(kind, truth, z, LOGSNR)
  np.testing.assert_allclose(x_hat, x, atol=1e-4)
  out = process.from_x(kind, x, z, LOGSNR)
  np.testing.assert_allclose(out, truth, atol=1e-4)


@pytest.mark.parametrize('convert', [process.to_x, process.from_x])
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
