"""The denoising loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import loss
from imagen_jax.diffusion import process
from imagen_jax.diffusion import schedule

KINDS = ('x', 'eps', 'v', 'edm')
SHAPE = (5, 4, 4, 3)


def parts(logsnr):
  """Clean images, and the noise to make of them what `logsnr` is of."""
  key_x, key_eps = jax.random.split(jax.random.key(1))
  x = jax.random.uniform(key_x, SHAPE, minval=-1, maxval=1)
  eps = jax.random.normal(key_eps, SHAPE)
  assert logsnr.shape == SHAPE[:1]
  return x, eps


def target(kind, x, eps, logsnr):
  alpha, sigma = process.alpha_sigma(process.broadcast(logsnr, x))
  z = alpha * x + sigma * eps
  wide = alpha**2 * 0.25 + sigma**2
  edm = (x - 0.25 * alpha / wide * z) / (0.5 * sigma / wide**0.5)
  return {'x': x, 'eps': eps, 'v': alpha * eps - sigma * x, 'edm': edm}[kind]


@pytest.mark.parametrize('prediction', KINDS)
@pytest.mark.parametrize('kind', KINDS)
def test_the_truth_costs_nothing(prediction, kind):
  logsnr = jnp.linspace(-5.0, 5.0, 5)
  x, eps = parts(logsnr)
  out = target(prediction, x, eps, logsnr)
  found = loss.denoising_loss(
    out, x, eps, logsnr, prediction=prediction, loss=kind
  )
  assert found.shape == (5,)
  np.testing.assert_allclose(found, 0, atol=1e-7)


@pytest.mark.parametrize('prediction', KINDS)
@pytest.mark.parametrize('kind', KINDS)
def test_an_error_has_the_weight_of_its_space(prediction, kind):
  """An error d in x is one of d alpha/sigma in eps, and of d/sigma in v.

  And one of d / c_out in EDM's F, where its data have deviation 0.5.
  """
  logsnr = jnp.linspace(-5.0, 5.0, 5)
  x, eps = parts(logsnr)
  alpha, sigma = (np.asarray(a, float) for a in process.alpha_sigma(logsnr))
  error = {'x': np.ones(5), 'eps': alpha / sigma, 'v': 1 / sigma}
  error['edm'] = np.sqrt(0.25 * alpha**2 + sigma**2) / (0.5 * sigma)
  out = target(prediction, x, eps, logsnr) + 0.5
  found = loss.denoising_loss(
    out, x, eps, logsnr, prediction=prediction, loss=kind
  )
  expected = (0.5 * error[kind] / error[prediction]) ** 2
  np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize('prediction', KINDS)
@pytest.mark.parametrize('kind', KINDS)
def test_keeps_its_digits_to_the_accepted_bounds(prediction, kind):
  """In float64 by way of x_hat, where float32 would have none left."""
  logsnr = jnp.array([-80.0, -40.0, 0.5, 40.0, 80.0])
  x, eps = parts(logsnr)
  wide = np.asarray(logsnr, np.longdouble)[:, None, None, None]
  alpha, sigma = (1 / np.sqrt(1 + np.exp(s * wide)) for s in (-1, 1))
  spread = np.sqrt(0.09 * alpha**2 + sigma**2)
  slopes = {
    'x': 1 + 0 * alpha,
    'eps': sigma / alpha,
    'v': sigma,
    'edm': 0.3 * sigma / spread,
  }
  options = {'prediction': prediction, 'loss': kind, 'sigma_data': 0.3}
  true = process.target(prediction, x, eps, logsnr, 0.3)
  found = loss.denoising_loss(true, x, eps, logsnr, **options)
  np.testing.assert_array_equal(found, 0)
  found = loss.denoising_loss(true + 0.5, x, eps, logsnr, **options)
  expected = (0.5 * (slopes[prediction] / slopes[kind]).ravel()) ** 2
  np.testing.assert_allclose(found, expected.astype(float), rtol=1e-4)


def test_is_the_mean_over_an_image_and_no_other():
  logsnr = jnp.zeros(5)
  x, eps = parts(logsnr)
  out = eps.at[2, 0, 0, 0].add(3.0)
  found = loss.denoising_loss(out, x, eps, logsnr, prediction='eps', loss='eps')
  expected = np.array([0, 0, 9 / (4 * 4 * 3), 0, 0])
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('prediction', KINDS)
@pytest.mark.parametrize('kind', KINDS)
def test_the_ends_are_finite(prediction, kind):
  logsnr = jnp.linspace(-20.0, 20.0, 5)
  x, eps = parts(logsnr)

  def total(out):
    return loss.denoising_loss(
      out, x, eps, logsnr, prediction=prediction, loss=kind
    ).sum()

  value, slope = jax.value_and_grad(total)(jnp.zeros_like(x))
  assert np.isfinite(value)
  assert np.all(np.isfinite(slope))


def test_refuses_another_prediction():
  logsnr = jnp.zeros(5)
  x, eps = parts(logsnr)
  with pytest.raises(ValueError, match="prediction is 'score'; accepted: 'x'"):
    loss.denoising_loss(eps, x, eps, logsnr, prediction='score', loss='eps')


WEIGHTINGS = ('min_snr', 'truncated_snr', 'sigmoid')
LOGSNR = jnp.array([-9.0, -2.0, 0.0, 1.0, 2.5, 9.0])
SLOPE = jnp.array([-3.0, -0.5, -1.0, -2.0, -4.0, -8.0])


def weight(kind, weighting, **options):
  options = {'slope': SLOPE, **options}
  return loss.weight(LOGSNR, weighting=weighting, loss=kind, **options)


def test_weights_are_their_published_forms():
  snr = np.exp(np.asarray(LOGSNR, float))
  least = np.minimum(snr, 5)
  for kind, expected in (
    ('eps', least / snr),
    ('x', least),
    ('v', least / (snr + 1)),
  ):
    np.testing.assert_allclose(weight(kind, 'min_snr'), expected, rtol=1e-5)
  np.testing.assert_allclose(
    weight('x', 'truncated_snr'), np.maximum(snr, 1), rtol=1e-5
  )
  sigmoid = 1 / (1 + np.exp(np.asarray(LOGSNR, float) - 2))
  np.testing.assert_allclose(
    weight('eps', 'sigmoid'), -np.asarray(SLOPE) * sigmoid, rtol=1e-5
  )
  np.testing.assert_array_equal(weight('v', 'plain'), np.ones(6))


def test_weights_take_their_numbers():
  snr = np.exp(np.asarray(LOGSNR, float))
  found = weight('x', 'min_snr', min_snr_gamma=2.0)
  np.testing.assert_allclose(found, np.minimum(snr, 2), rtol=1e-5)
  found = weight('eps', 'sigmoid', sigmoid_bias=-1.0)
  expected = -SLOPE / (1 + np.exp(np.asarray(LOGSNR, float) + 1))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('weighting', WEIGHTINGS)
def test_a_weighting_is_the_same_in_every_space(weighting):
  logsnr = jnp.linspace(-5.0, 5.0, 5)
  x, eps = parts(logsnr)
  out = target('v', x, eps, logsnr) + 0.3 * x + 0.1
  found = []
  for kind in KINDS:
    losses = loss.denoising_loss(out, x, eps, logsnr, prediction='v', loss=kind)
    found.append(
      losses
      * loss.weight(logsnr, weighting=weighting, loss=kind, slope=-jnp.ones(5))
    )
  for other in found[1:]:
    np.testing.assert_allclose(other, found[0], rtol=1e-3)


def test_plain_edm_is_its_own_weight():
  """(s^2 + d^2) / (s d)^2 of an error in x, for noise s and data d = 0.5."""
  logsnr = jnp.linspace(-5.0, 5.0, 5)
  x, eps = parts(logsnr)
  found = loss.denoising_loss(
    x + 0.1, x, eps, logsnr, prediction='x', loss='edm'
  )
  variance = np.exp(-np.asarray(logsnr, float))
  expected = 0.01 * (variance + 0.25) / (0.25 * variance)
  np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_sigmoid_weighs_log_snr_alike_under_any_schedule():
  """Its sum over time is the integral of the sigmoid over log-SNR."""
  t = (jnp.arange(50_000) + 0.5) / 50_000
  found = []
  for name in ('cosine', 'linear'):
    function = lambda t, name=name: schedule.SCHEDULES[name](
      t, logsnr_min=-6.0, logsnr_max=9.0
    )
    logsnr, slope = jax.jvp(function, (t,), (jnp.ones_like(t),))
    weights = loss.weight(logsnr, weighting='sigmoid', loss='eps', slope=slope)
    found.append(np.asarray(weights, float).mean())
  exact = np.log1p(np.exp(2 + 6)) - np.log1p(np.exp(2 - 9))
  np.testing.assert_allclose(found, exact, rtol=2e-3)


def test_weights_at_the_ends_are_finite():
  logsnr = jnp.array([-80.0, -20.0, 20.0, 40.0])
  for weighting in WEIGHTINGS:
    for kind in KINDS[1:]:
      found = loss.weight(
        logsnr, weighting=weighting, loss=kind, slope=-jnp.ones(4)
      )
      assert np.all(np.isfinite(found)), (weighting, kind)


def test_refuses_another_weighting():
  with pytest.raises(ValueError, match="weighting is 'p2'; accepted: 'plain'"):
    weight('eps', 'p2')
