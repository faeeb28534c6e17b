"""Samples that start from a picture, or keep a part of one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import process
from imagen_jax.diffusion import sampler
from imagen_jax.diffusion import schedule
from imagen_jax.diffusion import spacing

NUM_IMAGES = 4000
# Two pixels of one picture, [1, 2, 1], that go together.
VARIANCE, COVARIANCE = 0.3, 0.24
MATRIX = np.array([[VARIANCE, COVARIANCE], [COVARIANCE, VARIANCE]])
KNOWN = 0.9


def denoise(z, logsnr, *_):
  """E[x | z] of two joint Gaussians around 0."""
  alpha, sigma = (a[:, None] for a in process.alpha_sigma(logsnr))
  variance, axes = np.linalg.eigh(MATRIX)
  variance, axes = (jnp.asarray(a, jnp.float32) for a in (variance, axes))
  gain = alpha * variance[None] / (alpha**2 * variance[None] + sigma**2)
  return ((gain * (z[:, 0, :, 0] @ axes)) @ axes.T)[:, None, :, None]


def draw(num_steps=24, num_images=NUM_IMAGES, **options):
  """Pictures [B, 2] that start from (KNOWN, -KNOWN)."""
  keys = jax.random.split(jax.random.key(0), num_images)
  image = jnp.broadcast_to(
    jnp.array([KNOWN, -KNOWN])[None, None, :, None], (num_images, 1, 2, 1)
  )
  sample = functools.partial(
    sampler.sample,
    denoise,
    shape=(1, 2, 1),
    logsnr=spacing.by_time(num_steps, schedule=schedule.cosine),
    image=image,
    **options,
  )
  return np.asarray(jax.jit(sample)(keys), float)[:, 0, :, 0]


def painted_in(**options):
  """The second of two pixels, given the first."""
  mask = jnp.broadcast_to(
    jnp.array([0.0, 1.0])[None, None, :, None], (NUM_IMAGES, 1, 2, 1)
  )
  x = draw(mask=mask, **options)
  # What is kept is kept exactly.
  np.testing.assert_array_equal(x[:, 0], np.float32(KNOWN))
  return x[:, 1]


# Of the second pixel given the first.
CONDITIONAL_MEAN = COVARIANCE / VARIANCE * KNOWN
CONDITIONAL_VARIANCE = VARIANCE - COVARIANCE**2 / VARIANCE


@pytest.mark.parametrize('name', ['ancestral', 'dpmpp_sde'])
def test_resampling_draws_the_rest_given_what_is_kept(name):
  """Ever better with more repeats, to what a Gaussian's condition says."""
  error, spread = [], []
  for repeats in (1, 3, 12):
    x = painted_in(sampler=name, repeats=repeats)
    error.append(abs(x.mean() - CONDITIONAL_MEAN))
    spread.append(x.var() / CONDITIONAL_VARIANCE)
  assert error[0] > 0.2 > error[1] > 2 * error[2]
  assert error[2] < 0.07
  # Too wide without repeats; so few steps draw any Gaussian too narrow.
  assert 0.5 < spread[2] < 1.1 < spread[0]


def test_several_steps_at_once_help_too():
  once = abs(painted_in(repeats=1).mean() - CONDITIONAL_MEAN)
  jumps = abs(painted_in(repeats=6, jump=4).mean() - CONDITIONAL_MEAN)
  assert jumps < 0.8 * once


@pytest.mark.parametrize('name', ['ddim', 'dpmpp', 'heun'])
def test_other_samplers_paint_in_as_well(name):
  x = painted_in(sampler=name, repeats=6)
  assert abs(x.mean() - CONDITIONAL_MEAN) < 0.15


@pytest.mark.parametrize('name', ['ancestral', 'ddim', 'dpmpp'])
def test_strength_is_how_far_the_picture_is_left(name):
  """(KNOWN, -KNOWN) is unlikely: the more steps, the less is left of it."""
  left = []
  for strength in (0.05, 0.4, 0.7, 1.0):
    x = draw(strength=strength, sampler=name, num_steps=40)
    left.append((x[:, 0] - x[:, 1]).mean() / (2 * KNOWN))
  assert left[0] > 0.9
  assert np.all(np.diff(left) < -0.005)
  # A whole sample is of noise alone, to four standard errors.
  error = 4 * np.sqrt(2 * (VARIANCE - COVARIANCE) / NUM_IMAGES)
  assert abs(left[-1]) < error / (2 * KNOWN)


def test_strength_takes_its_share_of_the_steps():
  seen = []

  def watch(z, logsnr, step, *_):
    jax.debug.callback(lambda s: seen.append(int(s)), step, ordered=True)
    return denoise(z, logsnr)

  keys = jax.random.split(jax.random.key(0), 2)
  jax.jit(
    functools.partial(
      sampler.sample,
      watch,
      shape=(1, 2, 1),
      logsnr=spacing.by_time(8, schedule=schedule.cosine),
      image=jnp.zeros((2, 1, 2, 1)),
      strength=0.5,
    )
  )(keys)
  jax.effects_barrier()
  assert seen == [4, 5, 6, 7]


def test_a_mask_of_ones_keeps_nothing():
  mask = jnp.ones((64, 1, 2, 1))
  found = draw(num_images=64, mask=mask)
  np.testing.assert_allclose(found, draw(num_images=64), atol=1e-5)


def test_nothing_is_merged_between_heuns_two_calls():
  """The second is given where the Euler step has led, kept pixels too."""
  seen = []

  def watch(z, logsnr, *_):
    note = lambda *arrays: seen.append([np.asarray(a, float) for a in arrays])
    jax.debug.callback(note, z, logsnr, ordered=True)
    return 0.3 * z

  keys = jax.random.split(jax.random.key(0), 3)
  mask = jnp.broadcast_to(
    jnp.array([0.0, 1.0])[None, None, :, None], (3, 1, 2, 1)
  )
  sample = functools.partial(
    sampler.sample,
    watch,
    shape=(1, 2, 1),
    logsnr=jnp.array([-2.0, 1.0, 4.0]),
    sampler='heun',
    image=jnp.full((3, 1, 2, 1), KNOWN),
    mask=mask,
  )
  jax.jit(sample)(keys)
  jax.effects_barrier()
  assert [logsnr[0] for _, logsnr in seen] == [-2, 1, 1]
  (z, _), (ahead, _), (after, _) = seen
  (alpha, sigma), (alpha_s, sigma_s) = (
    np.sqrt(1 / (1 + np.exp([-logsnr, logsnr]))) for logsnr in (-2.0, 1.0)
  )
  x_hat = 0.3 * z
  euler = alpha_s * x_hat + sigma_s / sigma * (z - alpha * x_hat)
  np.testing.assert_allclose(ahead, euler, rtol=1e-4, atol=1e-5)
  # Behind the second, the kept pixel is the picture's, at the step's noise.
  known = [
    jax.random.normal(
      jax.random.fold_in(jax.random.fold_in(key, sampler._KNOWN), 2), (1, 2, 1)
    )
    for key in keys
  ]
  expected = alpha_s * KNOWN + sigma_s * np.array(known, float)
  np.testing.assert_allclose(
    after[:, :, 0], expected[:, :, 0], rtol=1e-4, atol=1e-5
  )
