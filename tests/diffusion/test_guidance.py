"""Classifier-free guidance, and thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import guidance
from imagen_jax.diffusion import process

KINDS = ('x', 'eps', 'v', 'edm')
SHAPE = (5, 4, 4, 3)


def two():
  key_cond, key_uncond = jax.random.split(jax.random.key(2))
  return (
    jax.random.normal(key_cond, SHAPE),
    jax.random.normal(key_uncond, SHAPE),
  )


def test_weight_one_is_conditional_and_zero_is_not():
  cond, uncond = two()
  np.testing.assert_allclose(guidance.guide(cond, uncond, 1), cond, atol=1e-6)
  np.testing.assert_array_equal(guidance.guide(cond, uncond, 0), uncond)


def test_is_the_papers_equation():
  cond, uncond = two()
  expected = 7.5 * cond + (1 - 7.5) * uncond
  np.testing.assert_allclose(
    guidance.guide(cond, uncond, 7.5), expected, atol=1e-5
  )


def test_a_weight_for_each_image():
  cond, uncond = two()
  weights = np.array([0.0, 1.0, 1.35, 3.0, 7.5])
  found = guidance.guide(cond, uncond, weights)
  for i, weight in enumerate(weights):
    one = guidance.guide(cond[i : i + 1], uncond[i : i + 1], weight)
    np.testing.assert_allclose(found[i : i + 1], one, rtol=1e-6, atol=1e-6)


def test_refuses_weights_of_another_batch():
  cond, uncond = two()
  with pytest.raises(AssertionError, match='shape'):
    guidance.guide(cond, uncond, np.ones(4))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('other', KINDS)
def test_commutes_with_conversions(kind, other):
  cond, uncond = two()
  z = jax.random.normal(jax.random.key(3), SHAPE)
  logsnr = jnp.linspace(-4.0, 4.0, 5)

  def convert(out):
    x = process.to_x(kind, out, z, logsnr)
    return process.from_x(other, x, z, logsnr)

  after = convert(guidance.guide(cond, uncond, 3.0))
  before = guidance.guide(convert(cond), convert(uncond), 3.0)
  np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)


def test_static_threshold_clips():
  x_hat = jnp.array([-3.0, -1.0, 0.2, 1.0, 5.0])
  found = guidance.static_threshold(x_hat)
  np.testing.assert_array_equal(found, jnp.array([-1.0, -1.0, 0.2, 1.0, 1.0]))


def test_dynamic_threshold_is_its_definition():
  x_hat = 2 * two()[0]
  found = guidance.dynamic_threshold(x_hat, percentile=0.9)
  for image, got in zip(np.asarray(x_hat), found):
    s = max(np.quantile(np.abs(image), 0.9), 1.0)
    np.testing.assert_allclose(got, np.clip(image, -s, s) / s, rtol=1e-5)
  assert np.abs(found).max() <= 1
  # The largest are clipped, no more than a tenth and a pixel of an image.
  clipped = (np.abs(found) > 1 - 1e-6).sum(axis=(1, 2, 3))
  assert np.all((clipped > 0) & (clipped <= 6))


def test_dynamic_threshold_leaves_small_images_alone():
  x_hat = jax.random.uniform(jax.random.key(4), SHAPE, minval=-1, maxval=1)
  found = guidance.dynamic_threshold(x_hat, percentile=0.995)
  np.testing.assert_array_equal(found, x_hat)


def test_dynamic_threshold_is_static_below_the_percentile():
  # Two of 48 values are out of range: the 90th percentile is within.
  x_hat = jnp.full(SHAPE, 0.5).at[:, 0, 0, :2].set(jnp.array([-4.0, 9.0]))
  np.testing.assert_array_equal(
    guidance.dynamic_threshold(x_hat, percentile=0.9),
    guidance.static_threshold(x_hat),
  )


def test_dynamic_threshold_is_per_image():
  x_hat = two()[0]
  louder = x_hat.at[0].multiply(100.0)
  found = guidance.dynamic_threshold(louder, percentile=0.995)
  alone = guidance.dynamic_threshold(x_hat, percentile=0.995)
  np.testing.assert_array_equal(found[1:], alone[1:])


@pytest.mark.parametrize('kind', ['none', 'static', 'dynamic'])
def test_threshold_by_name(kind):
  x_hat = 3 * two()[0]
  expected = {
    'none': x_hat,
    'static': guidance.static_threshold(x_hat),
    'dynamic': guidance.dynamic_threshold(x_hat, percentile=0.8),
  }
  found = guidance.threshold(x_hat, kind=kind, percentile=0.8)
  np.testing.assert_array_equal(found, expected[kind])


def test_refuses_another_threshold():
  words = "threshold is 'soft'; accepted: 'none', 'static', 'dynamic'"
  with pytest.raises(ValueError, match=words):
    guidance.threshold(jnp.zeros(SHAPE), kind='soft', percentile=0.9)


LOGSNR = jnp.array([-9.0, -3.0, 0.0, 2.0, 9.0])


def weight_at(kind, step=0, weight=7.0):
  return guidance.weight_at(
    weight,
    LOGSNR,
    step,
    kind=kind,
    interval=(-3.0, 2.5),
    after=2,
    low=0.5,
  )


def test_a_constant_weight():
  assert [weight_at('constant', step) for step in range(3)] == [7, 7, 7]


def test_an_interval_guides_in_the_middle():
  np.testing.assert_array_equal(weight_at('interval'), [1, 7, 7, 7, 1])
  each = jnp.arange(5.0)
  found = weight_at('interval', weight=each)
  np.testing.assert_array_equal(found, [1, 1, 2, 3, 1])


def test_oscillating_alternates_after_some_steps():
  found = [float(weight_at('oscillating', step)) for step in range(7)]
  assert found == [7, 7, 0.5, 7, 0.5, 7, 0.5]
  found = weight_at('oscillating', jnp.int32(4), weight=jnp.arange(5.0))
  np.testing.assert_array_equal(found, np.full(5, 0.5))


def test_refuses_another_guidance():
  with pytest.raises(ValueError, match="guidance is 'cosine'; accepted: 'cons"):
    weight_at('cosine')


def test_rescale_brings_back_contrast():
  cond, uncond = two()
  guided = guidance.guide(cond, uncond, 5.0) + 0.3
  whole = guidance.rescale(guided, cond, 1.0)
  axes = (1, 2, 3)
  np.testing.assert_allclose(whole.std(axes), cond.std(axes), rtol=1e-5)
  half = guidance.rescale(guided, cond, 0.5)
  np.testing.assert_allclose(half, 0.5 * (whole + guided), rtol=1e-5)
  np.testing.assert_allclose(guidance.rescale(guided, cond, 0.0), guided)
  flat = guidance.rescale(jnp.ones(SHAPE), cond, 0.7)
  assert np.all(np.isfinite(flat))


def test_rescale_is_another_programs(golden):
  """rescale_noise_cfg of Hugging Face diffusers, phi = 0.7."""
  first, second = (jnp.asarray(golden['noise'][n], jnp.float32) for n in (1, 2))
  found = guidance.rescale(3 * first + 0.2, second, 0.7)
  np.testing.assert_allclose(found, golden['rescaled'], rtol=1e-4, atol=1e-5)


def test_a_capped_threshold_is_another_programs(golden):
  """_threshold_sample of Hugging Face diffusers: percentile and cap."""
  x = jnp.asarray(golden['thresholded']['x'], jnp.float32)
  for cap in (1.0, 1.5, 100.0):
    found = guidance.dynamic_threshold(x, percentile=0.8, cap=cap)
    expected = golden['thresholded'][str(cap)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_cap_ends_division_per_image():
  """A quiet image is its own percentile's; a loud one is cut at the cap."""
  loud = two()[0]
  x_hat = jnp.stack([0.7 * loud[0], 9 * loud[1]])
  free = guidance.dynamic_threshold(x_hat, percentile=0.9)
  capped = guidance.dynamic_threshold(x_hat, percentile=0.9, cap=1.5)
  np.testing.assert_array_equal(capped[0], free[0])
  np.testing.assert_allclose(
    capped[1], np.clip(x_hat[1], -1.5, 1.5) / 1.5, rtol=1e-6
  )
  assert np.abs(capped[1] - free[1]).max() > 0.1
  static = guidance.dynamic_threshold(x_hat, percentile=0.9, cap=1.0)
  np.testing.assert_array_equal(static, guidance.static_threshold(x_hat))
  by_name = guidance.threshold(x_hat, kind='dynamic', percentile=0.9, cap=1.5)
  np.testing.assert_array_equal(by_name, capped)
