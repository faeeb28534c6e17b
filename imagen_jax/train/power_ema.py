"""Averages of weights by powers of time, and any of them from snapshots.

EDM2 (arXiv:2312.02696, section 3.1 and appendix C). The average at step t of
parameters theta(1), theta(2), ... weighs what lies within (0, t] by the power
gamma of its time, so that what it remembers is always the same share of the
run. That share, as a standard deviation over t, is its length, `sigma_rel` in
the paper. An average whose length nobody had thought of is, nearly, a sum of
such as were kept now and then along the run.
"""

import jax
import jax.numpy as jnp
import numpy as np


def gamma(length: float) -> float:
  """The power of an average's length: `length` undone, as a cubic's root."""
  t = float(length) ** -2
  return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def length(gamma):
  """The length of a power's average (section 3.1)."""
  return (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5


def name(length: float) -> str:
  """What the average of a length is called in a state; `float` undoes it."""
  return str(float(length))


def newest_share(step, gamma: float):
  """The share of a step's own parameters in its average: the paper's 1 - beta.

  Written out, 1 - (1 - 1 / step) ** (gamma + 1) would keep two digits of it
  at two million steps in float32.
  """
  step = jnp.asarray(step, jnp.float32)
  return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / step))


def update(average, params, step, gamma: float):
  """The average after a step.

  Args:
    average: before it; at step 1, anything finite.
    params: after it.
    step: finished updates, from 1.
    gamma: the power.
  """
  share = newest_share(step, gamma)
  # As a difference: with (1 - share) * old, what 1 - share is rounded by would
  # add up over the 1 / share steps that the average remembers.
  return jax.tree.map(
    lambda old, new: old + share * (new - old), average, params
  )


def correlation(step_a, gamma_a, step_b, gamma_b) -> np.ndarray:
  """The inner product of two averages' weights over time (algorithm 3).

  Args:
    step_a: where the one average was taken; like the others, whatever shape.
    gamma_a: its power.
    step_b: of the other.
    gamma_b: likewise.
  """
  step_a, step_b = np.float64(step_a), np.float64(step_b)
  power = np.where(step_a < step_b, gamma_b, -np.float64(gamma_a))
  above = (gamma_a + 1) * (gamma_b + 1) * (step_a / step_b) ** power
  return above / ((gamma_a + gamma_b + 1) * np.maximum(step_a, step_b))


def solve(steps, lengths, step, length) -> tuple[np.ndarray, float]:
  """How to add up averages to one of another length (algorithm 3).

  Args:
    steps: where each of them was taken.
    lengths: theirs.
    step: where the other is wished.
    length: its length.

  Returns:
    What to multiply each by, float64; and how far the sum's weights over time
    are from the wished ones, as a share of these (both by their square norm).
  """
  steps = np.asarray(steps, np.float64)
  gammas = np.array([gamma(each) for each in lengths])
  wished = gamma(length)
  among = correlation(
    steps[:, None], gammas[:, None], steps[None], gammas[None]
  )
  with_wished = correlation(steps, gammas, step, wished)
  factors = np.linalg.solve(among, with_wished)
  whole = correlation(step, wished, step, wished)
  left = whole - 2 * factors @ with_wished + factors @ among @ factors
  return factors, float(np.sqrt(max(left / whole, 0)))
