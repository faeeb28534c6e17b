"""The denoising loss, and its weight by noise level."""

import math

import chex
import jax
import jax.numpy as jnp

from imagen_jax.diffusion import process


def denoising_loss(out, x, eps, logsnr, *, prediction, loss, sigma_data=0.5):
  """Squared error of a network's output, averaged over an image, [B].

  Args:
    out: what the network made of noised images, [B, H, W, C].
    x: clean images, [B, H, W, C].
    eps: the noise in them, [B, H, W, C].
    logsnr: of the noised images, [B].
    prediction: what `out` stands for: 'x', 'eps', 'v' or 'edm'.
    loss: in which of 'x', 'eps', 'v', 'edm' the error is taken. Unweighted
      'eps' is the paper's (appendix A, equation 4 with weight SNR in x-space);
      unweighted 'edm' is EDM's own weight, (sigma^2 + sigma_d^2) / (sigma
      sigma_d)^2 in x-space (arXiv:2206.00364, table 1).
    sigma_data: standard deviation of the data, for 'edm'.
  """
  chex.assert_equal_shape([out, x, eps])
  error = out - process.target(prediction, x, eps, logsnr, sigma_data)
  if prediction != loss:
    # Errors are proportional. Converted, what they are of would be subtracted
    # from what is next to equal to it: float32 has no eps left at log-SNR 40.
    of_x, of_loss = (
      process.x_per(kind, process.broadcast(logsnr, x), sigma_data)
      for kind in (prediction, loss)
    )
    error = error * (of_x / of_loss)
  return jnp.mean(error**2, axis=(1, 2, 3))


def weight(
  logsnr,
  *,
  weighting,
  loss,
  min_snr_gamma=5.0,
  sigmoid_bias=2.0,
  sigma_data=0.5,
  slope=None,
):
  """What to multiply `denoising_loss` by, [B].

  All but 'plain' state the weight of an error in x, and so have the same sum
  in whichever space `loss` measures:

  - 'plain': 1, whatever that is in x;
  - 'min_snr': min(SNR, gamma) (arXiv:2303.09556);
  - 'truncated_snr': max(SNR, 1) (arXiv:2202.00512);
  - 'sigmoid': sigmoid(bias - logsnr) of the error in eps, and -d logsnr / dt,
    which makes it independent of the schedule (arXiv:2303.00848).

  Args:
    logsnr: [B].
    weighting: one of the above.
    loss: space of the error: 'x', 'eps', 'v' or 'edm'.
    min_snr_gamma: of 'min_snr'.
    sigmoid_bias: of 'sigmoid'.
    sigma_data: standard deviation of the data, for 'edm'.
    slope: d logsnr / dt, [B]; for 'sigmoid' alone.

  Raises:
    ValueError: for another weighting.
  """
  # As logarithms: SNR spans 17 decades, the products below do not.
  if weighting == 'plain':
    return jnp.ones_like(logsnr)
  if weighting == 'min_snr':
    of_x = jnp.minimum(logsnr, math.log(min_snr_gamma))
  elif weighting == 'truncated_snr':
    of_x = jnp.maximum(logsnr, 0)
  elif weighting == 'sigmoid':
    of_x = jax.nn.log_sigmoid(sigmoid_bias - logsnr) + logsnr
  else:
    raise ValueError(
      f"weighting is {weighting!r}; accepted: 'plain', 'min_snr', "
      "'truncated_snr', 'sigmoid'"
    )
  # The square of an error in x beside that of the same error in `loss`.
  if loss == 'eps':
    of_x = of_x - logsnr
  elif loss == 'v':
    of_x = of_x + jax.nn.log_sigmoid(-logsnr)
  elif loss == 'edm':
    _, _, c_out = process.edm_scales(logsnr, sigma_data)
    of_x = of_x + 2 * jnp.log(c_out)
  found = jnp.exp(of_x)
  return found * -slope if weighting == 'sigmoid' else found
