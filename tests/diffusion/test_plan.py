"""The order of a sampler's calls."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import plan

LOGSNR = jnp.array([-8.0, -4.0, -1.0, 1.0, 1.0, 5.0])


def test_steps_once_in_order():
  assert plan.moves(4) == [(0, 0), (1, 1), (2, 2), (3, 3)]
  assert plan.moves(4, first=2) == [(2, 2), (3, 3)]


def test_each_step_is_repeated_but_the_last():
  assert plan.moves(3, repeats=3) == [
    *[(0, 0), (1, 0), (1, 0)],
    *[(1, 1), (2, 1), (2, 1)],
    (2, 2),
  ]


def test_several_steps_are_gone_back_at_once():
  found = plan.moves(5, repeats=2, jump=2)
  once = [(0, 0), (1, 1), (2, 0), (1, 1)]
  assert found == [*once, (2, 2), (3, 3), (4, 2), (3, 3), (4, 4)]


@pytest.mark.parametrize('jump', [1, 2, 3, 10])
@pytest.mark.parametrize('repeats', [1, 2, 5])
@pytest.mark.parametrize('first', [0, 4])
def test_every_step_is_taken_and_z_is_where_it_was_left(first, repeats, jump):
  found = plan.moves(10, first=first, repeats=repeats, jump=jump)
  assert {step for _, step in found} == set(range(first, 10))
  assert found[0] == (first, first) and found[-1][1] == 9
  for (_, before), (at, step) in zip(found, found[1:]):
    assert at == before + 1
    assert step <= at
  counts = np.bincount([step for _, step in found])
  whole = first + (9 - first) // jump * jump
  assert np.all(counts[first:whole] == repeats)
  assert np.all(counts[whole:] == 1)


@pytest.mark.parametrize(
  'strength, first', [(1.0, 0), (0.75, 2), (0.5, 4), (0.01, 7)]
)
def test_first_step(strength, first):
  assert plan.first_step(8, strength) == first


def test_heun_calls_twice_but_for_the_last_step():
  found = plan.lay_out(LOGSNR, sampler='heun')
  np.testing.assert_array_equal(found.step, [0, 0, 1, 1, 2, 2, 3, 3, 4])
  np.testing.assert_array_equal(found.correct, np.arange(9) % 2 == 1)
  np.testing.assert_array_equal(found.logsnr_t, LOGSNR[found.step])
  np.testing.assert_array_equal(found.logsnr_s, LOGSNR[found.step + 1])
  np.testing.assert_array_equal(found.logsnr_z, found.logsnr_t)


def test_churn_starts_a_step_from_more_noise():
  churn = jnp.array([0.0, 0.1, 0.2, 0.3, 0.4])
  found = plan.lay_out(LOGSNR, sampler='heun', churn=churn)
  grown = np.exp(0.5 * (found.logsnr_z - found.logsnr_t)) - 1
  np.testing.assert_allclose(grown, churn[found.step], atol=1e-5)


def test_repeats_are_noised_first():
  found = plan.lay_out(LOGSNR, sampler='ddim', repeats=2)
  again = np.arange(9) % 2 == 1
  np.testing.assert_array_equal(found.returns, again)
  np.testing.assert_array_equal(
    found.logsnr_z, np.where(again, found.logsnr_s, found.logsnr_t)
  )


def test_extrapolation():
  found = plan.lay_out(LOGSNR, sampler='dpmpp')
  # Half of this step's length by the last one's; none after one of no length.
  expected = [0, 0.5 * 3 / 4, 0.5 * 2 / 3, 0, 0]
  np.testing.assert_allclose(found.extrapolate, expected, rtol=1e-6)


def test_nothing_is_extrapolated_over_a_return():
  found = plan.lay_out(LOGSNR, sampler='dpmpp', repeats=2, jump=2)
  np.testing.assert_array_equal(found.step, [0, 1, 0, 1, 2, 3, 2, 3, 4])
  known = np.asarray(found.extrapolate) > 0
  np.testing.assert_array_equal(known, [0, 1, 0, 1, 1, 0, 0, 0, 0])
