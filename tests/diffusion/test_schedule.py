"""Noise schedules: known values, ends, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import schedule

BOTH = pytest.mark.parametrize('name', schedule.SCHEDULES)


def test_cosine_values():
  found = schedule.cosine(jnp.array([0.25, 0.5, 0.75]))
  np.testing.assert_allclose(found, [1.7627, 0, -1.7627], atol=5e-5)


def test_cosine_is_its_formula():
  t = np.linspace(0.001, 0.999, 101)
  expected = -2 * np.log(np.tan(0.5 * np.pi * t))
  found = schedule.cosine(jnp.asarray(t, jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def offset(t, **bounds):
  return schedule.offset_cosine(jnp.asarray(t), offset=0.008, **bounds)


def test_offset_cosine_values():
  """Of the fact sheet, for Improved DDPM's offset."""
  found = offset([0.25, 0.5, 0.75])
  np.testing.assert_allclose(found, [1.7114, -0.0246, -1.7803], atol=5e-5)


def test_offset_cosine_is_its_formula():
  t = np.linspace(0.001, 0.999, 101)
  f = lambda t: np.cos(0.5 * np.pi * (t + 0.008) / 1.008) ** 2
  kept = f(t) / f(0)
  expected = np.log(kept / (1 - kept))
  found = offset(t.astype(np.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  # Without an offset it is the cosine.
  plain = schedule.offset_cosine(jnp.float32(t), offset=0.0)
  np.testing.assert_allclose(
    plain, schedule.cosine(jnp.float32(t)), rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize('bound', [4.0, 20.0, 40.0])
def test_offset_cosine_ends_are_the_bounds_and_have_gradients(bound):
  bounds = {'logsnr_min': -bound, 'logsnr_max': bound}
  t = jnp.array([0.0, 1e-9, 1e-3, 0.5, 0.999, 1.0])
  found = offset(t, **bounds)
  np.testing.assert_allclose(
    found[jnp.array([0, 5])], [bound, -bound], atol=2e-3
  )
  assert np.all(np.diff(found) <= 0)
  slope = jax.vmap(jax.grad(lambda t: offset(t, **bounds)))(t)
  assert np.all(np.isfinite(slope)) and np.all(slope < 1e-6)


def test_linear_values():
  t = jnp.array([0.001, 0.1, 0.25, 0.5, 0.75, 1.0])
  expected = [9.115, 2.157, 0.095, -2.455, -5.668, -10.050]
  np.testing.assert_allclose(schedule.linear(t), expected, atol=1e-3)


def test_linear_is_ddpms_thousand_steps():
  beta = np.linspace(1e-4, 0.02, 1000)
  kept = np.cumprod(1 - beta)
  n = np.array([100, 250, 500, 750, 1000])
  discrete = np.log(kept / (1 - kept))[n - 1]
  continuous = schedule.linear(jnp.asarray(n / 1000, jnp.float32))
  np.testing.assert_allclose(continuous, discrete, atol=0.07)


@BOTH
def test_falls_all_the_way(name):
  found = np.asarray(schedule.SCHEDULES[name](jnp.linspace(0.001, 1.0, 999)))
  assert np.all(np.diff(found) < 0)


# Bounds far beyond float32's sense of a time near 1, and narrow ones.
@BOTH
@pytest.mark.parametrize('bound', [4.0, 20.0, 40.0])
def test_ends_are_the_bounds(name, bound):
  function = schedule.SCHEDULES[name]
  found = function(jnp.array([0.0, 1.0]), logsnr_min=-bound, logsnr_max=bound)
  lowest = max(-bound, -10.05) if name == 'linear' else -bound
  np.testing.assert_allclose(found, [bound, lowest], atol=2e-3)


def test_bounds_need_not_be_symmetric():
  t = jnp.array([0.0, 0.5, 1.0])
  found = schedule.cosine(t, logsnr_min=-3.0, logsnr_max=12.0)
  np.testing.assert_allclose(found, [12, 0, -3], atol=1e-4)
  found = schedule.linear(t, logsnr_min=-3.0, logsnr_max=12.0)
  np.testing.assert_allclose(found, [12, -2.4552, -3], atol=1e-4)


@BOTH
@pytest.mark.parametrize('bound', [4.0, 20.0, 40.0])
def test_gradients_are_finite(name, bound):
  function = lambda t: schedule.SCHEDULES[name](
    t, logsnr_min=-bound, logsnr_max=bound
  )
  t = jnp.array([0.0, 1e-9, 1e-3, 0.5, 0.999, 1.0])
  slope = jax.vmap(jax.grad(function))(t)
  assert np.all(np.isfinite(slope)) and np.all(slope < 1e-6)
  assert slope[3] < -1


def test_symmetry_of_the_cosine():
  t = jnp.linspace(0.0, 1.0, 65)
  np.testing.assert_allclose(
    schedule.cosine(t), -schedule.cosine(1 - t), atol=5e-3
  )


def test_time_of_cosine_inverts_it():
  for logsnr in (-15.0, -1.0, 0.0, 6.5, 18.0):
    t = schedule.time_of_cosine(logsnr)
    assert schedule.cosine(jnp.float32(t)) == pytest.approx(logsnr, abs=2e-3)


@pytest.mark.parametrize('size, shift', [(256, -2.7726), (1024, -5.5452)])
def test_shifted_cosine_values(size, shift):
  """Of the fact sheet, for pictures of 256 and 1024 pixels beside 64."""
  t = jnp.array([0.25, 0.5, 0.75])
  move = 2 * np.log(64 / size)
  found = schedule.shifted_cosine(t, shift=move)
  np.testing.assert_allclose(found, schedule.cosine(t) + shift, atol=1e-3)
  ends = schedule.shifted_cosine(jnp.array([0.0, 1.0]), shift=move)
  np.testing.assert_allclose(ends, [20, -20], atol=2e-3)


def test_edm_is_log_normal():
  """Its quantiles, its mean and its spread, over uniform times."""
  t = (jnp.arange(20_000) + 0.5) / 20_000
  log_sigma = -0.5 * np.asarray(schedule.edm(t), float)
  np.testing.assert_allclose(log_sigma.mean(), -1.2, atol=1e-3)
  np.testing.assert_allclose(log_sigma.std(), 1.2, atol=2e-3)
  found = schedule.edm(jnp.array([0.1586553, 0.5, 0.8413447]))
  np.testing.assert_allclose(found, [4.8, 2.4, 0.0], atol=1e-3)
  other = schedule.edm(jnp.array([0.5, 0.8413447]), mean=-0.4, std=1.0)
  np.testing.assert_allclose(other, [0.8, -1.2], atol=1e-3)


def test_edm_ends_are_the_bounds_and_have_gradients():
  t = jnp.array([0.0, 1e-9, 0.5, 1 - 1e-7, 1.0])
  found = schedule.edm(t, logsnr_min=-9.0, logsnr_max=12.0)
  np.testing.assert_allclose(found[jnp.array([0, 4])], [12, -9], atol=1e-4)
  assert np.all(np.diff(found) <= 0)
  slope = jax.vmap(jax.grad(schedule.edm))(t)
  assert np.all(np.isfinite(slope)) and np.all(slope <= 0)


def alpha_of(logsnr):
  return np.sqrt(1 / (1 + np.exp(-np.asarray(logsnr, float))))


@BOTH
def test_zero_terminal_snr_is_its_formula(name):
  plain = schedule.SCHEDULES[name]
  t = jnp.linspace(0.0, 1.0, 101)
  alpha = alpha_of(plain(t))
  expected = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
  found = schedule.zero_terminal_snr(plain)(t)
  np.testing.assert_allclose(alpha_of(found), expected, atol=1e-6)
  # Nothing is left at the end; nothing changes at the start.
  assert found[-1] < -30 and alpha_of(found[-1]) < 1e-7
  np.testing.assert_allclose(found[0], plain(t)[0], atol=1e-3)
  assert np.all(np.diff(found) < 0)


def test_zero_terminal_snr_of_discrete_steps_is_another_programs(golden):
  """Algorithm 1 of arXiv:2305.08891, as Hugging Face diffusers has it."""
  beta = np.linspace(1e-4, 0.02, 1000)
  kept = np.cumprod(1 - beta)
  logsnr = jnp.asarray(np.log(kept / (1 - kept)), jnp.float32)
  table = lambda t: jnp.interp(t, jnp.linspace(0.0, 1.0, 1000), logsnr)
  places = np.array(golden['zero_terminal_snr']['places'])
  found = schedule.zero_terminal_snr(table)(jnp.asarray(places / 999.0))
  np.testing.assert_allclose(
    alpha_of(found), golden['zero_terminal_snr']['alpha'], atol=2e-4
  )
  # Which the schedule itself is not.
  assert abs(alpha_of(logsnr)[-1]) > 5e-3


@BOTH
def test_gradients_of_zero_terminal_snr_are_finite(name):
  function = schedule.zero_terminal_snr(schedule.SCHEDULES[name])
  t = jnp.array([0.0, 1e-9, 1e-3, 0.5, 0.999, 1.0])
  assert np.all(np.isfinite(jax.vmap(jax.grad(function))(t)))
