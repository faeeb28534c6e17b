"""Power averages against their integrals, and sums of them against others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.train import power_ema

LENGTHS = (0.05, 0.1)


def trajectory(num_steps, seed=0):
  """Parameters that drift and shake, as training's do; [num_steps, 5]."""
  rng = np.random.default_rng(seed)
  drift = np.cumsum(rng.normal(size=(num_steps, 5)), 0) / num_steps**0.5
  return drift + 0.3 * rng.normal(size=drift.shape)


def direct(values, length):
  """The average at each step, float64, by the paper's recursion."""
  gamma, average, found = power_ema.gamma(length), 0.0, []
  for step, value in enumerate(values, 1):
    beta = (1 - 1 / step) ** (gamma + 1)
    average = beta * average + (1 - beta) * value
    found.append(average)
  return np.array(found)


@pytest.mark.parametrize('length', [0.01, 0.05, 0.1, 0.2, 0.28])
def test_lengths_and_powers_undo_each_other(length):
  gamma = power_ema.gamma(length)
  assert gamma >= 0
  np.testing.assert_allclose(power_ema.length(gamma), length, rtol=1e-9)


def test_powers_are_the_papers():
  """A length is the deviation of t ** gamma over (0, 1), as it is defined."""
  # EDM2, section 3.1: 0.05 and 0.10 are the powers 16.97 and 6.94.
  np.testing.assert_allclose(power_ema.gamma(0.05), 16.97, atol=5e-3)
  np.testing.assert_allclose(power_ema.gamma(0.10), 6.94, atol=5e-3)
  t = (np.arange(100_000) + 0.5) / 100_000
  weight = t ** power_ema.gamma(0.1)
  mean = (t * weight).sum() / weight.sum()
  variance = ((t - mean) ** 2 * weight).sum() / weight.sum()
  np.testing.assert_allclose(variance**0.5, 0.1, rtol=1e-6)


def test_an_average_is_the_integral_over_steps():
  """Of t ** gamma, with what a step left until the next one."""
  values = trajectory(30)
  gamma = power_ema.gamma(0.1)
  edges = (np.arange(31) / 30) ** (gamma + 1)
  expected = np.diff(edges) @ values
  np.testing.assert_allclose(direct(values, 0.1)[-1], expected, rtol=1e-12)


def test_updates_are_the_papers():
  values = trajectory(40)
  gamma = power_ema.gamma(0.1)
  average = {'w': jnp.full(5, 0.5)}
  update = jax.jit(power_ema.update, static_argnums=3)
  for step, value in enumerate(values, 1):
    params = {'w': jnp.asarray(value, jnp.float32)}
    average = update(average, params, jnp.int32(step), gamma)
    if step == 1:
      # What was there before the first step counts for nothing.
      np.testing.assert_allclose(average['w'], value, atol=1e-7)
  assert average['w'].dtype == jnp.float32
  np.testing.assert_allclose(
    average['w'], direct(values, 0.1)[-1], rtol=2e-6, atol=2e-6
  )


def test_late_steps_keep_their_share():
  """A share of 7e-6, which 1 - beta in float32 has two digits of."""
  step, gamma = 2_500_000, power_ema.gamma(0.05)
  exact = -np.expm1((gamma + 1) * np.log1p(-1 / step))
  found = power_ema.newest_share(jnp.int32(step), gamma)
  np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_a_constant_stays_what_it_is_over_many_steps():
  """No rounding adds up."""

  def body(step, average):
    return power_ema.update(average, params, step, power_ema.gamma(0.05))

  params = jnp.float32(0.1)
  late = jax.lax.fori_loop(2_000_000, 2_200_000, body, params)
  np.testing.assert_allclose(late, 0.1, rtol=1e-6)


@pytest.mark.parametrize('steps', [(100, 100), (60, 100), (100, 60)])
@pytest.mark.parametrize('gammas', [(3.0, 3.0), (16.97, 6.94), (0.0, 5.0)])
def test_correlations_are_integrals(steps, gammas):
  """Of the product of two averages' weights over time."""
  t = (np.arange(200_000) + 0.5) * max(steps) / 200_000
  weights = [
    np.where(t <= step, (gamma + 1) * t**gamma / step ** (gamma + 1), 0)
    for step, gamma in zip(steps, gammas)
  ]
  expected = (weights[0] * weights[1]).sum() * max(steps) / len(t)
  (step_a, step_b), (gamma_a, gamma_b) = steps, gammas
  found = power_ema.correlation(step_a, gamma_a, step_b, gamma_b)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize('length', [0.03, 0.05, 0.07, 0.12, 0.2])
@pytest.mark.parametrize('at', [640, 400])
def test_any_length_comes_of_snapshots(length, at):
  values = trajectory(640)
  kept = {each: direct(values, each) for each in LENGTHS}
  pairs = [(t, each) for t in range(16, at + 1, 16) for each in LENGTHS]
  factors, error = power_ema.solve(*zip(*pairs), step=at, length=length)
  found = sum(f * kept[each][t - 1] for f, (t, each) in zip(factors, pairs))
  wished = direct(values, length)[at - 1]
  scale = np.abs(values).max()
  np.testing.assert_allclose(found, wished, atol=0.02 * scale)
  # Better than the kept ones are, but where it is one of them.
  nearest = min(np.abs(kept[each][at - 1] - wished).max() for each in LENGTHS)
  assert np.abs(found - wished).max() < max(0.2 * nearest, 1e-9)
  assert error < 0.02
  np.testing.assert_allclose(factors.sum(), 1, atol=5e-3)


def test_a_kept_average_comes_of_itself():
  pairs = [(t, each) for t in (10, 20) for each in LENGTHS]
  factors, error = power_ema.solve(*zip(*pairs), step=20, length=0.05)
  np.testing.assert_allclose(factors, [0, 0, 1, 0], atol=1e-9)
  assert error < 1e-6


def test_the_error_is_that_of_the_weights_over_time():
  """Few snapshots: what they cannot say is told."""
  pairs = [(t, each) for t in (50, 100) for each in LENGTHS]
  factors, error = power_ema.solve(*zip(*pairs), step=100, length=0.2)
  t = (np.arange(100_000) + 0.5) / 1000

  def weights(step, length):
    gamma = power_ema.gamma(length)
    return np.where(t <= step, (gamma + 1) * t**gamma / step ** (gamma + 1), 0)

  made = sum(f * weights(*pair) for f, pair in zip(factors, pairs))
  wished = weights(100, 0.2)
  left = ((made - wished) ** 2).sum() / (wished**2).sum()
  np.testing.assert_allclose(error, left**0.5, rtol=1e-3)
  assert 0.1 < error < 0.5


@pytest.mark.parametrize(
  'num, length, share',
  [(100, 0.03, 0.001), (100, 0.2, 0.0007), (8, 0.12, 0.013), (8, 0.25, 0.17)],
)
def test_errors_are_those_of_the_docs(num, length, share):
  """A few numbers of the table in docs/averages.md."""
  pairs = [(t, each) for t in range(1, num + 1) for each in LENGTHS]
  _, error = power_ema.solve(*zip(*pairs), step=num, length=length)
  np.testing.assert_allclose(error, share, rtol=0.25)
