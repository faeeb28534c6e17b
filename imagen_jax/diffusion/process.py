"""The variance-preserving noise process, and conversions between targets."""

import chex
import jax
import jax.numpy as jnp


def broadcast(value, like):
  """`value` [B] with trailing axes of size 1, to the rank of `like`."""
  return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def alpha_sigma(logsnr):
  """Signal and noise scale: alpha^2 = sigmoid(logsnr), alpha^2 + sigma^2 = 1.

  Args:
    logsnr: log(alpha^2 / sigma^2), any shape.
  """
  return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def diffuse(x, eps, logsnr):
  """z_t = alpha x + sigma eps (paper, equation 3).

  Args:
    x: clean images, [B, H, W, C].
    eps: standard normal noise, [B, H, W, C].
    logsnr: [B].
  """
  chex.assert_equal_shape([x, eps])
  chex.assert_shape(logsnr, x.shape[:1])
  alpha, sigma = alpha_sigma(broadcast(logsnr, x))
  return alpha * x + sigma * eps


def renoise(z, noise, logsnr_s, logsnr_t):
  """A draw of z_t given z_s, for s < t: the noising of what is noised already.

  Paper, equation 3. The identity where the two log-SNRs are equal.

  Args:
    z: noised image at time s, [B, H, W, C].
    noise: standard normal, [B, H, W, C].
    logsnr_s: log-SNR at s, [B].
    logsnr_t: log-SNR at t, [B]; at most `logsnr_s`.
  """
  chex.assert_equal_shape([z, noise])
  alpha_s, _ = alpha_sigma(broadcast(logsnr_s, z))
  alpha_t, sigma_t = alpha_sigma(broadcast(logsnr_t, z))
  c = -jnp.expm1(broadcast(logsnr_t - logsnr_s, z))
  return alpha_t / alpha_s * z + jnp.sqrt(c) * sigma_t * noise


def edm_scales(logsnr, sigma_data):
  """EDM's factors, such that x_hat = c_skip z + c_out F(c_in z).

  EDM (arXiv:2206.00364, table 1) writes them for an image with noise of scale
  sigma added; z here is that over sqrt(1 + sigma^2). With `sigma_data` 1, F is
  -v and c_in is 1.

  Args:
    logsnr: any shape.
    sigma_data: standard deviation of the data.

  Returns:
    c_in, c_skip and c_out, of the shape of `logsnr`.
  """
  alpha, sigma = alpha_sigma(logsnr)
  c_in = 1 / jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)
  return c_in, alpha * (sigma_data * c_in) ** 2, sigma * sigma_data * c_in


def scale_input(kind, z, logsnr, sigma_data):
  """`z` as the network of prediction `kind` takes it: scaled for 'edm'."""
  if kind != 'edm':
    return z
  c_in, _, _ = edm_scales(broadcast(logsnr, z), sigma_data)
  return c_in * z


def to_x(kind, out, z, logsnr, sigma_data=0.5):
  """The clean image that a prediction stands for, [B, H, W, C].

  Args:
    kind: which prediction `out` is: 'x', 'eps', 'v' = alpha eps - sigma x, or
      'edm', the F of `edm_scales`.
    out: the prediction, [B, H, W, C].
    z: the noised image that it was made from, [B, H, W, C].
    logsnr: of `z`, [B].
    sigma_data: standard deviation of the data, for 'edm'.

  Raises:
    ValueError: for another kind.
  """
  chex.assert_equal_shape([out, z])
  alpha, sigma = alpha_sigma(broadcast(logsnr, z))
  if kind == 'x':
    return out
  if kind == 'eps':
    return (z - sigma * out) / alpha
  if kind == 'v':
    return alpha * z - sigma * out
  if kind == 'edm':
    _, c_skip, c_out = edm_scales(broadcast(logsnr, z), sigma_data)
    return c_skip * z + c_out * out
  raise ValueError(f"prediction is {kind!r}; accepted: 'x', 'eps', 'v', 'edm'")


def from_x(kind, x, z, logsnr, sigma_data=0.5):
  """The prediction of `kind` that stands for clean image `x`.

  The inverse of `to_x`; arguments and errors alike.
  """
  chex.assert_equal_shape([x, z])
  alpha, sigma = alpha_sigma(broadcast(logsnr, z))
  if kind == 'x':
    return x
  if kind == 'eps':
    return (z - alpha * x) / sigma
  if kind == 'v':
    return (alpha * z - x) / sigma
  if kind == 'edm':
    _, c_skip, c_out = edm_scales(broadcast(logsnr, z), sigma_data)
    return (x - c_skip * z) / c_out
  raise ValueError(f"prediction is {kind!r}; accepted: 'x', 'eps', 'v', 'edm'")


def target(kind, x, eps, logsnr, sigma_data=0.5):
  """What a prediction of `kind` is of, [B, H, W, C]: `from_x` of z's own x.

  From the noise that z was made with, and so without the differences that have
  no digits left where there is next to no noise, or next to no picture.

  Args:
    kind: 'x', 'eps', 'v' or 'edm'.
    x: clean images, [B, H, W, C].
    eps: the noise in z, [B, H, W, C].
    logsnr: of z, [B].
    sigma_data: standard deviation of the data, for 'edm'.

  Raises:
    ValueError: for another kind.
  """
  chex.assert_equal_shape([x, eps])
  alpha, sigma = alpha_sigma(broadcast(logsnr, x))
  if kind == 'x':
    return x
  if kind == 'eps':
    return eps
  if kind == 'v':
    return alpha * eps - sigma * x
  if kind == 'edm':
    c_in, _, _ = edm_scales(broadcast(logsnr, x), sigma_data)
    return c_in * (sigma / sigma_data * x - alpha * sigma_data * eps)
  raise ValueError(f"prediction is {kind!r}; accepted: 'x', 'eps', 'v', 'edm'")


def x_per(kind, logsnr, sigma_data=0.5):
  """By how much `to_x` moves where a prediction of `kind` grows by 1.

  Args:
    kind: 'x', 'eps', 'v' or 'edm'.
    logsnr: any shape, which is also the result's.
    sigma_data: standard deviation of the data, for 'edm'.
  """
  alpha, sigma = alpha_sigma(logsnr)
  _, _, c_out = edm_scales(logsnr, sigma_data)
  every = {'x': jnp.ones_like(alpha), 'eps': -sigma / alpha, 'v': -sigma}
  return (every | {'edm': c_out})[kind]


def posterior(x, z_t, logsnr_t, logsnr_s):
  """Mean and variance of q(z_s | z_t, x), for s < t.

  Args:
    x: clean image, [B, H, W, C].
    z_t: noised image at time t, [B, H, W, C].
    logsnr_t: log-SNR at t, [B].
    logsnr_s: log-SNR at s, [B]; larger than `logsnr_t`.

  Returns:
    Mean [B, H, W, C] and variance [B, 1, 1, 1].

  Paper, appendix A: mean and variance of equation 6 with gamma = 0.
  """
  chex.assert_equal_shape([x, z_t])
  chex.assert_shape([logsnr_t, logsnr_s], x.shape[:1])
  alpha_t, _ = alpha_sigma(broadcast(logsnr_t, x))
  alpha_s, sigma_s = alpha_sigma(broadcast(logsnr_s, x))
  # 1 - SNR(t) / SNR(s), through expm1: the difference cancels near t = s.
  c = -jnp.expm1(broadcast(logsnr_t - logsnr_s, x))
  mean = alpha_s * ((1 - c) * z_t / alpha_t + c * x)
  return mean, c * sigma_s**2
