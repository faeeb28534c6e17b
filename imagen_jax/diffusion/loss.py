"""The denoising loss."""

import chex
import jax.numpy as jnp

from imagen_jax.diffusion import process


def denoising_loss(out, x, eps, z, logsnr, *, prediction, loss):
  """Squared error of a network's output, averaged over an image, [B].

  Args:
    out: what the network made of `z`, [B, H, W, C].
    x: clean images, [B, H, W, C].
    eps: the noise in `z`, [B, H, W, C].
    z: noised images, [B, H, W, C].
    logsnr: of `z`, [B].
    prediction: what `out` stands for: 'x', 'eps' or 'v'.
    loss: in which of 'x', 'eps', 'v' the error is taken. Unweighted 'eps' is
      the paper's (appendix A, equation 4 with weight SNR in x-space).
  """
  chex.assert_equal_shape([out, x, eps, z])
  alpha, sigma = process.alpha_sigma(process.broadcast(logsnr, x))
  target = {'x': x, 'eps': eps, 'v': alpha * eps - sigma * x}[loss]
  if prediction != loss:
    x_hat = process.to_x(prediction, out, z, logsnr)
    out = process.from_x(loss, x_hat, z, logsnr)
  return jnp.mean((out - target) ** 2, axis=(1, 2, 3))
