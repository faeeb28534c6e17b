"""Readings of noise-conditioning augmentation (paper, section 2.4)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_stages import UNET
from tiny_stages import normal

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import structs
from imagen_jax.diffusion import augmentation
from imagen_jax.diffusion import process

SR = config.StageConfig(
  image_size=8,
  lowres_size=4,
  unet=UNET,
  sample=config.SampleConfig(num_steps=3, threshold='static', aug_level=0.4),
)


def corrupt(lowres, eps, level, **diffusion):
  found, _ = augmentation.corrupt_lowres(
    lowres,
    eps,
    jnp.full(len(lowres), level),
    image_size=2 * lowres.shape[1],
    diffusion=config.DiffusionConfig(**diffusion),
  )
  return np.asarray(found)


def test_lowres_at_level_zero_is_upsampled_alone():
  lowres = normal(1, 4, 4, 4, 3)
  eps = normal(2, 4, 8, 8, 3)
  found, logsnr = augmentation.corrupt_lowres(
    lowres, eps, jnp.zeros(4), image_size=8, diffusion=SR.diffusion
  )
  # Bilinear, half a pixel in: three parts of the nearer, one of the farther.
  between = 0.75 * lowres[:, 1] + 0.25 * lowres[:, 2]
  between = 0.75 * between[:, 2] + 0.25 * between[:, 1]
  np.testing.assert_allclose(found[:, 3, 4], between, atol=1e-3)
  np.testing.assert_allclose(logsnr, np.full(4, 20.0), atol=1e-3)


def test_lowres_at_level_one_is_noise():
  eps = normal(2, 4, 8, 8, 3)
  found, logsnr = augmentation.corrupt_lowres(
    normal(1, 4, 4, 4, 3),
    eps,
    jnp.ones(4),
    image_size=8,
    diffusion=SR.diffusion,
  )
  np.testing.assert_allclose(found, eps, atol=1e-3)
  np.testing.assert_allclose(logsnr, np.full(4, -20.0), atol=1e-3)


def test_lowres_takes_its_own_schedule_and_level():
  diffusion = dataclasses.replace(
    SR.diffusion, schedule='cosine', aug_schedule='linear'
  )
  levels = jnp.array([0.0, 0.5, 1.0, 0.5])
  lowres, eps = jnp.ones((4, 4, 4, 3)), normal(2, 4, 8, 8, 3)
  found, logsnr = augmentation.corrupt_lowres(
    lowres, eps, levels, image_size=8, diffusion=diffusion
  )
  np.testing.assert_allclose(logsnr, [20, -2.455, -10.05, -2.455], atol=2e-3)
  alpha, sigma = process.alpha_sigma(process.broadcast(logsnr, eps))
  np.testing.assert_allclose(found, alpha + sigma * eps, atol=1e-5)


@pytest.mark.parametrize('name', ['cosine', 'linear'])
def test_levels_end_at_the_bounds_of_the_log_snr(name):
  bounds = {'logsnr_min': -3.0, 'logsnr_max': 4.0}
  diffusion = config.DiffusionConfig(aug_schedule=name, **bounds)
  found = augmentation.logsnr_of(diffusion)(jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(found, [4, -3], atol=1e-3)


def test_noise_before_is_enlarged_with_the_image():
  lowres, eps = normal(0, 2, 4, 4, 3), normal(1, 2, 4, 4, 3)
  found = corrupt(lowres, eps, 0.5, aug_noise='before')
  # At level 0.5 the cosine schedule has as much noise as image.
  noised = (lowres + eps) * 2**-0.5
  plain = corrupt(noised, jnp.zeros((2, 8, 8, 3)), 0.0)
  np.testing.assert_allclose(found, plain, atol=1e-4)


def test_noise_before_is_weaker():
  """Between pixels it is a mean: bilinear 0.625 of each side's deviation."""
  after = corrupt(jnp.zeros((4, 16, 16, 3)), normal(1, 4, 32, 32, 3), 1.0)
  before = corrupt(
    jnp.zeros((4, 16, 16, 3)), normal(1, 4, 16, 16, 3), 1.0, aug_noise='before'
  )
  inside = (slice(None), slice(1, -1), slice(1, -1))
  assert abs(after[inside].std() - 1) < 0.03
  assert abs(before[inside].std() - 0.625) < 0.03
  # And a neighbour's is much the same.
  flat = lambda x: (x[:, 1:-2:2].ravel(), x[:, 2:-1:2].ravel())
  assert abs(np.corrcoef(*flat(after))[0, 1]) < 0.05
  assert np.corrcoef(*flat(before))[0, 1] > 0.4


def test_noise_of_the_other_place_is_a_mistake():
  with pytest.raises(AssertionError):
    corrupt(
      normal(0, 2, 4, 4, 3), normal(1, 2, 8, 8, 3), 0.5, aug_noise='before'
    )
  with pytest.raises(AssertionError):
    corrupt(normal(0, 2, 4, 4, 3), normal(1, 2, 4, 4, 3), 0.5)


def test_bicubic_is_keys_kernel():
  lowres = normal(0, 1, 8, 8, 3)
  nothing = jnp.zeros((1, 16, 16, 3))
  found = corrupt(lowres, nothing, 0.0, aug_kernel='bicubic')
  near = lambda x: 1.5 * x**3 - 2.5 * x**2 + 1
  far = lambda x: -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  # A quarter of a pixel behind the fourth.
  weights = np.array([far(1.25), near(0.25), near(0.75), far(1.75)])
  rows = np.einsum('r,brwc->bwc', weights, lowres[:, 2:6])
  expected = np.einsum('w,bwc->bc', weights, rows[:, 2:6])
  np.testing.assert_allclose(found[:, 7, 7], expected, atol=1e-3)
  change = found - corrupt(lowres, nothing, 0.0)
  assert 0.05 < change.std() / found.std() < 0.5


def seen_in_sampling(**sample):
  """The low-res inputs and their log-SNR that each call is given."""
  seen = []

  def watch(z, logsnr, cond):
    note = lambda *arrays: seen.append([np.asarray(a) for a in arrays])
    jax.debug.callback(note, cond.lowres, cond.aug_logsnr, ordered=True)
    return 0.1 * z

  stage = dataclasses.replace(
    SR, sample=dataclasses.replace(SR.sample, **sample)
  )
  draw = functools.partial(cascade.sample_stage, watch, stage=stage)
  text = structs.TextCond(jnp.zeros((4, 3, 5)), jnp.ones((4, 3), bool))
  keys = jax.random.split(jax.random.key(4), 4)
  jax.jit(draw)(keys, text, 0.5 * jnp.ones((4, 4, 4, 3)))
  jax.effects_barrier()
  return seen


@pytest.mark.parametrize(
  'sampler, calls',
  [
    ({'sampler': 'ancestral'}, 3),
    # A corrector's noise is its own, too.
    ({'sampler': 'heun', 'spacing': 'karras'}, 5),
  ],
  ids=str,
)
def test_noise_anew_at_every_call(sampler, calls):
  seen = seen_in_sampling(aug_draw='every', **sampler)
  assert len(seen) == calls
  level = -2 * np.log(np.tan(np.pi / 2 * 0.4))
  alpha, sigma = (float(a) for a in process.alpha_sigma(jnp.float32(level)))
  noises = []
  for lowres, aug_logsnr in seen:
    np.testing.assert_allclose(aug_logsnr, np.full(8, level), rtol=1e-3)
    # With and without text are given the same.
    np.testing.assert_array_equal(lowres[::2], lowres[1::2])
    noises.append(((lowres[::2] - 0.5 * alpha) / sigma).ravel())
  # Each is standard normal, and none is another's: 768 numbers.
  off = np.corrcoef(noises) - np.eye(calls)
  assert np.abs(off).max() < 0.2
  assert all(0.85 < noise.std() < 1.15 for noise in noises)


def test_noise_once_is_the_default():
  seen = seen_in_sampling()
  for lowres, _ in seen:
    np.testing.assert_array_equal(lowres, seen[0][0])


def test_sizes_of_the_noise():
  before = dataclasses.replace(
    SR, diffusion=config.DiffusionConfig(aug_noise='before')
  )
  assert augmentation.noise_size(16, SR) == 16
  assert augmentation.noise_size(16, before) == 8
