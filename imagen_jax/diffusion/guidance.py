"""Classifier-free guidance, and thresholds that keep it in range."""

import chex
import jax.numpy as jnp

from imagen_jax.diffusion import process


def guide(cond, uncond, guidance_weight):
  """uncond + w (cond - uncond): paper, equation 2.

  Args:
    cond: prediction with text, [B, H, W, C]; any kind, since guidance is
      linear and commutes with the conversions between eps, x and v.
    uncond: prediction without, [B, H, W, C].
    guidance_weight: 1 is no guidance, 0 is unconditional; a scalar or [B].
  """
  chex.assert_equal_shape([cond, uncond])
  weight = jnp.asarray(guidance_weight, cond.dtype)
  if weight.ndim:
    chex.assert_shape(weight, cond.shape[:1])
    weight = process.broadcast(weight, cond)
  return uncond + weight * (cond - uncond)


def static_threshold(x_hat):
  """`x_hat` clipped to [-1, 1]: paper, section 2.3."""
  return jnp.clip(x_hat, -1, 1)


def dynamic_threshold(x_hat, *, percentile):
  """`x_hat` clipped to +-s and divided by s, per image: paper, section 2.3.

  s is the `percentile` of |x_hat| within the image, at least 1, so that an
  image within [-1, 1] is left alone. The paper prints a reduction where the
  element-wise maximum with 1 is meant (figure A.31).

  Args:
    x_hat: [B, H, W, C], float32.
    percentile: in (0, 1].
  """
  axes = tuple(range(1, x_hat.ndim))
  s = jnp.quantile(jnp.abs(x_hat), percentile, axis=axes, keepdims=True)
  s = jnp.maximum(s, 1)
  return jnp.clip(x_hat, -s, s) / s


def threshold(x_hat, *, kind, percentile):
  """`x_hat` under 'none', 'static' or 'dynamic' thresholding."""
  if kind == 'none':
    return x_hat
  if kind == 'static':
    return static_threshold(x_hat)
  if kind == 'dynamic':
    return dynamic_threshold(x_hat, percentile=percentile)
  raise ValueError(
    f"threshold is {kind!r}; accepted: 'none', 'static', 'dynamic'"
  )
