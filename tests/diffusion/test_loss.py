"""The denoising loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import loss
from imagen_jax.diffusion import process

KINDS = ('x', 'eps', 'v')
SHAPE = (5, 4, 4, 3)


def parts(logsnr):
  """Clean images, noise, and noised images."""
  key_x, key_eps = jax.random.split(jax.random.key(1))
  x = jax.random.uniform(key_x, SHAPE, minval=-1, maxval=1)
  eps = jax.random.normal(key_eps, SHAPE)
  return x, eps, process.diffuse(x, eps, logsnr)


def target(kind, x, eps, logsnr):
  alpha, sigma = process.alpha_sigma(process.broadcast(logsnr, x))
  return {'x': x, 'eps': eps, 'v': alpha * eps - sigma * x}[kind]


@pytest.mark.parametrize('prediction', KINDS)
@pytest.mark.parametrize('kind', KINDS)
def test_the_truth_costs_nothing(prediction, kind):
  logsnr = jnp.linspace(-5.0, 5.0, 5)
  x, eps, z = parts(logsnr)
  out = target(prediction, x, eps, logsnr)
  found = loss.denoising_loss(
    out, x, eps, z, logsnr, prediction=prediction, loss=kind
  )
  assert found.shape == (5,)
  np.testing.assert_allclose(found, 0, atol=1e-7)


@pytest.mark.parametrize('prediction', KINDS)
@pytest.mark.parametrize('kind', KINDS)
def test_an_error_has_the_weight_of_its_space(prediction, kind):
  """An error d in x is one of d alpha/sigma in eps, and of d/sigma in v."""
  logsnr = jnp.linspace(-5.0, 5.0, 5)
  x, eps, z = parts(logsnr)
  alpha, sigma = (np.asarray(a, float) for a in process.alpha_sigma(logsnr))
  error = {'x': np.ones(5), 'eps': alpha / sigma, 'v': 1 / sigma}
  out = target(prediction, x, eps, logsnr) + 0.5
  found = loss.denoising_loss(
    out, x, eps, z, logsnr, prediction=prediction, loss=kind
  )
  expected = (0.5 * error[kind] / error[prediction]) ** 2
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_is_the_mean_over_an_image_and_no_other():
  logsnr = jnp.zeros(5)
  x, eps, z = parts(logsnr)
  out = eps.at[2, 0, 0, 0].add(3.0)
  found = loss.denoising_loss(
    out, x, eps, z, logsnr, prediction='eps', loss='eps'
  )
  expected = np.array([0, 0, 9 / (4 * 4 * 3), 0, 0])
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('prediction', KINDS)
@pytest.mark.parametrize('kind', KINDS)
def test_the_ends_are_finite(prediction, kind):
  logsnr = jnp.linspace(-20.0, 20.0, 5)
  x, eps, z = parts(logsnr)

  def total(out):
    return loss.denoising_loss(
      out, x, eps, z, logsnr, prediction=prediction, loss=kind
    ).sum()

  value, slope = jax.value_and_grad(total)(jnp.zeros_like(x))
  assert np.isfinite(value)
  assert np.all(np.isfinite(slope))


def test_refuses_another_prediction():
  logsnr = jnp.zeros(5)
  x, eps, z = parts(logsnr)
  with pytest.raises(ValueError, match="prediction is 'score'; accepted: 'x'"):
    loss.denoising_loss(eps, x, eps, z, logsnr, prediction='score', loss='eps')
