"""Samplers: from noise to an image by a `denoise(z, logsnr) -> x_hat`."""

import jax
import jax.numpy as jnp

from imagen_jax.diffusion import process


def ancestral_step(x_hat, z_t, noise, logsnr_t, logsnr_s, *, gamma=0.0):
  """A draw of z_s given z_t and the denoised image: paper, equation 6.

  Args:
    x_hat: denoised image, [B, H, W, C].
    z_t: noised image at time t, [B, H, W, C].
    noise: standard normal, [B, H, W, C].
    logsnr_t: log-SNR at t, [B].
    logsnr_s: log-SNR at s < t, [B].
    gamma: the step's variance, interpolated in log between the posterior's
      (0) and the forward process's (1).
  """
  mean, posterior_var = process.posterior(x_hat, z_t, logsnr_t, logsnr_s)
  _, sigma_t = process.alpha_sigma(process.broadcast(logsnr_t, z_t))
  c = -jnp.expm1(process.broadcast(logsnr_t - logsnr_s, z_t))
  forward_var = c * sigma_t**2
  std = jnp.sqrt(posterior_var ** (1 - gamma) * forward_var**gamma)
  return mean + std * noise


def ddim_step(x_hat, z_t, logsnr_t, logsnr_s):
  """The deterministic step to z_s: paper, equation 5.

  Arguments as of `ancestral_step`.
  """
  eps_hat = process.from_x('eps', x_hat, z_t, logsnr_t)
  return process.diffuse(x_hat, eps_hat, logsnr_s)


def sample(
  denoise, keys, shape, *, schedule, num_steps, sampler='ancestral', gamma=0.0
):
  """Images drawn by stepping time from 1 to 0 in equal steps.

  Args:
    denoise: (z [B, *shape], logsnr [B]) -> x_hat [B, *shape], guided and
      thresholded.
    keys: one PRNG key an image, [B]: an image does not depend on the others
      of its batch. Folded by step, so that two samplers of the same keys share
      their first noise.
    shape: of one image, (H, W, C).
    schedule: t [N] -> log-SNR [N].
    num_steps: calls of `denoise`.
    sampler: 'ancestral' or 'ddim'.
    gamma: see `ancestral_step`.

  Returns:
    [B, *shape]; the last step returns x_hat itself, without noise.

  Raises:
    ValueError: for another sampler.
  """
  if sampler not in ('ancestral', 'ddim'):
    raise ValueError(f"sampler is {sampler!r}; accepted: 'ancestral', 'ddim'")
  batch = keys.shape[0]

  def normal(step):
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, step), shape)
    return jax.vmap(draw)(keys)

  def per_image(logsnr):
    return jnp.full((batch,), logsnr)

  def step(carry, inputs):
    z, _ = carry
    index, logsnr_t, logsnr_s = inputs
    logsnr_t, logsnr_s = per_image(logsnr_t), per_image(logsnr_s)
    x_hat = denoise(z, logsnr_t)
    if sampler == 'ddim':
      z = ddim_step(x_hat, z, logsnr_t, logsnr_s)
    else:
      noise = normal(index)
      z = ancestral_step(x_hat, z, noise, logsnr_t, logsnr_s, gamma=gamma)
    return (z, x_hat), None

  # The last step's z is dropped: it costs less than to compile the network a
  # second time, outside of the scan.
  logsnr = schedule(jnp.linspace(1.0, 0.0, num_steps + 1))
  index = jnp.arange(1, num_steps + 1)
  z = normal(0)
  inputs = (index, logsnr[:-1], logsnr[1:])
  (_, x_hat), _ = jax.lax.scan(step, (z, jnp.zeros_like(z)), inputs)
  return x_hat
