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


def weight_at(guidance_weight, logsnr, step, *, kind, interval, after, low):
  """The guidance weight of a step, scalar or [B].

  - 'constant': `guidance_weight`;
  - 'interval': within a band of log-SNR, and 1, no guidance, outside of it
    (arXiv:2404.07724);
  - 'oscillating': for the first steps, and from then on by turns with `low`
    (Imagen Video, arXiv:2210.02303).

  Args:
    guidance_weight: scalar or [B].
    logsnr: [B].
    step: of the sample, from 0; a scalar.
    kind: one of the above.
    interval: least and greatest log-SNR of the band.
    after: steps before the first of weight `low`.
    low: the weight of every second step.

  Raises:
    ValueError: for another kind.
  """
  if kind == 'constant':
    return guidance_weight
  if kind == 'interval':
    lowest, highest = interval
    inside = (lowest <= logsnr) & (logsnr <= highest)
    return jnp.where(inside, guidance_weight, 1.0)
  if kind == 'oscillating':
    is_low = (step >= after) & ((step - after) % 2 == 0)
    return jnp.where(is_low, low, guidance_weight)
  raise ValueError(
    f"guidance is {kind!r}; accepted: 'constant', 'interval', 'oscillating'"
  )


def rescale(guided, cond, amount):
  """`guided` with its contrast brought back toward that of `cond`.

  amount * guided std(cond) / std(guided) + (1 - amount) * guided, with the
  deviations over an image (arXiv:2305.08891): guidance
  stretches contrast, which overexposes. The deviations are of clean images,
  so that what is done does not depend on the prediction.

  Args:
    guided: x_hat with guidance, [B, H, W, C].
    cond: x_hat of the network with text alone, [B, H, W, C].
    amount: from 0, none of it, to 1.
  """
  chex.assert_equal_shape([guided, cond])
  axes = tuple(range(1, guided.ndim))
  spread = lambda x: jnp.std(x, axis=axes, keepdims=True)
  # A guided image without contrast has none to bring back.
  ratio = spread(cond) / jnp.maximum(spread(guided), 1e-12)
  return guided * (amount * ratio + (1 - amount))


def static_threshold(x_hat):
  """`x_hat` clipped to [-1, 1]: paper, section 2.3."""
  return jnp.clip(x_hat, -1, 1)


def dynamic_threshold(x_hat, *, percentile, cap=None):
  """`x_hat` clipped to +-s and divided by s, per image: paper, section 2.3.

  s is the `percentile` of |x_hat| within the image, at least 1, so that an
  image within [-1, 1] is left alone. The paper prints a reduction where the
  element-wise maximum with 1 is meant (figure A.31).

  Args:
    x_hat: [B, H, W, C], float32.
    percentile: in (0, 1].
    cap: largest s, at least 1, where static thresholding begins; None for
      none. DeepFloyd IF samples with 1.5.
  """
  axes = tuple(range(1, x_hat.ndim))
  s = jnp.quantile(jnp.abs(x_hat), percentile, axis=axes, keepdims=True)
  s = jnp.clip(s, 1, cap)
  return jnp.clip(x_hat, -s, s) / s


def threshold(x_hat, *, kind, percentile, cap=None):
  """`x_hat` under 'none', 'static' or 'dynamic' thresholding."""
  if kind == 'none':
    return x_hat
  if kind == 'static':
    return static_threshold(x_hat)
  if kind == 'dynamic':
    return dynamic_threshold(x_hat, percentile=percentile, cap=cap)
  raise ValueError(
    f"threshold is {kind!r}; accepted: 'none', 'static', 'dynamic'"
  )
