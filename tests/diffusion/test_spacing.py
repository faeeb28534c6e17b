"""Where samplers stop."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import schedule
from imagen_jax.diffusion import spacing


def test_by_time_is_the_schedule():
  found = spacing.by_time(4, schedule=schedule.cosine)
  expected = schedule.cosine(jnp.array([1.0, 0.75, 0.5, 0.25, 0.0]))
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('rho', [1.0, 3.0, 7.0])
def test_by_sigma_is_equation_5(rho):
  found = spacing.by_sigma(9, sigma_min=0.002, sigma_max=80.0, rho=rho)
  i = np.arange(9)
  root = 80.0 ** (1 / rho) + i / 8 * (0.002 ** (1 / rho) - 80.0 ** (1 / rho))
  sigma = np.exp(-0.5 * np.asarray(found, float))
  np.testing.assert_allclose(sigma[:-1], root**rho, rtol=2e-4)
  # The sample is what the network says at the least sigma.
  assert found[-1] == found[-2]


def test_by_logsnr_is_even():
  found = np.asarray(spacing.by_logsnr(11, sigma_min=0.01, sigma_max=10.0))
  np.testing.assert_allclose(found[[0, -1]], [-4.60517, 9.21034], rtol=1e-5)
  np.testing.assert_allclose(np.diff(found[:-1]), 1.381551, rtol=1e-4)


@pytest.mark.parametrize('kind', ['time', 'logsnr', 'karras'])
def test_one_step_starts_from_noise(kind):
  found = spacing.logsnr_steps(1, spacing=kind, schedule=schedule.cosine)
  assert found.shape == (2,)
  assert found[0] < -8


def test_names_are_different_spacings():
  found = [
    spacing.logsnr_steps(8, spacing=kind, schedule=schedule.cosine)
    for kind in ('time', 'logsnr', 'karras')
  ]
  for i in range(3):
    assert np.all(np.diff(found[i]) >= 0)
    assert np.abs(found[i] - found[i - 1]).max() > 1


def test_refuses_another_spacing():
  with pytest.raises(ValueError, match="spacing is 'even'; accepted: 'time'"):
    spacing.logsnr_steps(8, spacing='even', schedule=schedule.cosine)
