"""Noise schedules: time t in [0, 1] to log-SNR."""

import math

import jax
import jax.numpy as jnp

# Log-SNR that stands for none: alpha is 4e-18, which float32 loses beside any
# noise, and no formula of it is infinite.
NO_SIGNAL = -80.0


def cosine(t, *, logsnr_min=-20.0, logsnr_max=20.0):
  """Log-SNR of the cosine schedule, -2 log tan(pi t / 2), clipped.

  Args:
    t: time, any shape, 0 = data, 1 = noise.
    logsnr_min: least log-SNR, reached at t = 1.
    logsnr_max: greatest log-SNR, reached at t = 0.

  Returns:
    Log-SNR of the shape of `t`, falling as `t` grows.

  Improved DDPM (arXiv:2102.09672) without its offset s, which the Imagen
  paper does not give. Time is clipped rather than the result, so that
  gradients are finite.
  """
  t = jnp.clip(t, time_of_cosine(logsnr_max), time_of_cosine(logsnr_min))
  # 1 - t has a floor of its own: float32 cannot tell the last times from 1.
  rest = jnp.maximum(1 - t, time_of_cosine(-logsnr_min))
  # The sine of 1 - t stands for the cosine of t, which loses all digits, even
  # its sign, near t = 1.
  quarter = 0.5 * math.pi
  return 2 * (jnp.log(jnp.sin(quarter * rest)) - jnp.log(jnp.sin(quarter * t)))


def offset_cosine(t, *, offset, logsnr_min=-20.0, logsnr_max=20.0):
  """Log-SNR of the cosine schedule with Improved DDPM's offset s, clipped.

  alpha^2 = f(t) / f(0), where f(t) = cos^2(pi (t + s) / (2 (1 + s)))
  (arXiv:2102.09672, s = 0.008). Other arguments and result as of `cosine`,
  which is this of s = 0.
  """
  quarter = 0.5 * math.pi
  first = quarter * offset / (1 + offset)
  per_time = quarter / (1 + offset)

  # With a the angle at t, and `first` that at 0: cos(first)^2 - cos(a)^2 is
  # sin(a + first) sin(a - first), which has its digits near t = 0.
  share = math.cos(first) ** 2 / (1 + math.exp(logsnr_max))
  angle = math.asin(math.sqrt(math.sin(first) ** 2 + share))
  earliest = math.asin(share / math.sin(angle + first)) / per_time
  # And cos(a) is the sine of what is left.
  cosine_least = math.cos(first) / math.sqrt(1 + math.exp(-logsnr_min))
  least_rest = math.asin(cosine_least) / per_time
  rest = jnp.clip(1 - t, least_rest, 1 - earliest)
  t = jnp.clip(t, earliest, 1 - least_rest)
  return (
    2 * jnp.log(jnp.sin(per_time * rest))
    - jnp.log(jnp.sin(per_time * t + 2 * first))
    - jnp.log(jnp.sin(per_time * t))
  )


def time_of_cosine(logsnr: float) -> float:
  """The time at which the unclipped cosine schedule has `logsnr`."""
  return 2 / math.pi * math.atan(math.exp(-0.5 * logsnr))


def linear(t, *, logsnr_min=-20.0, logsnr_max=20.0):
  """Log-SNR of the linear-beta schedule in continuous time, clipped.

  The integral of beta(t) = 0.1 + 19.9 t, DDPM's 1000 steps of 1e-4 to 0.02
  made continuous: log-SNR = -log(expm1(0.1 t + 9.95 t^2)); about -10.05 at
  t = 1. Arguments and result as of `cosine`.
  """
  integral = 0.1 * t + 9.95 * t**2
  # Clipped before the log, which has no gradient at t = 0.
  softplus = lambda logsnr: math.log1p(math.exp(logsnr))
  integral = jnp.clip(integral, softplus(-logsnr_max), softplus(-logsnr_min))
  return -jnp.log(jnp.expm1(integral))


def shifted_cosine(t, *, shift, logsnr_min=-20.0, logsnr_max=20.0):
  """The cosine schedule moved by `shift` in log-SNR, and clipped anew.

  A pixel of a large picture is told by its neighbours, so that the same noise
  hides less of it: 2 log(64 / d) for pictures of d pixels a side makes up for
  that (simple diffusion, arXiv:2301.11093). Other arguments and
  result as of `cosine`.
  """
  bounds = {'logsnr_min': logsnr_min - shift, 'logsnr_max': logsnr_max - shift}
  return cosine(t, **bounds) + shift


def edm(t, *, mean=-1.2, std=1.2, logsnr_min=-20.0, logsnr_max=20.0):
  """Log-SNR whose sigma / alpha is log-normal where t is uniform, clipped.

  EDM (arXiv:2206.00364, table 1) trains on ln sigma ~ N(-1.2, 1.2^2), where
  its sigma is noise beside unit signal: ours over alpha. That density is this
  schedule, by its quantiles.

  Args:
    t: time, any shape, 0 = data, 1 = noise.
    mean: of ln(sigma / alpha).
    std: of ln(sigma / alpha).
    logsnr_min: as of `cosine`.
    logsnr_max: as of `cosine`.
  """
  # The least that float32 has: 13 standard deviations. The upper half goes by
  # 1 - t, whose digits the quantile function would lose near 1.
  tiny = 1e-37
  low = jax.scipy.special.ndtri(jnp.clip(t, tiny, 0.5))
  high = jax.scipy.special.ndtri(jnp.clip(1 - t, tiny, 0.5))
  log_sigma = mean + std * jnp.where(t < 0.5, low, -high)
  return jnp.clip(-2 * log_sigma, logsnr_min, logsnr_max)


def zero_terminal_snr(schedule):
  """`schedule`, stretched so that nothing of the picture is left at t = 1.

  Alpha loses its last value and is scaled to keep its first (arXiv:2305.08891,
  algorithm 1). A network that is given pure noise at the first step of a
  sample has then been trained on it; it must predict 'x', 'v' or 'edm', since
  its output divided by no alpha is no picture.

  Args:
    schedule: t -> log-SNR.

  Returns:
    t -> log-SNR, `NO_SIGNAL` at t = 1.
  """

  def stretched(t):
    logsnr = schedule(t)
    first, last = schedule(jnp.zeros_like(t)), schedule(jnp.ones_like(t))
    alpha, alpha_0, alpha_1 = (
      jnp.sqrt(jax.nn.sigmoid(each)) for each in (logsnr, first, last)
    )
    # 1 - alpha by way of sigma^2: the difference has no digits left near t = 0.
    rest, rest_0 = (
      jax.nn.sigmoid(-each) / (1 + scale)
      for each, scale in ((logsnr, alpha), (first, alpha_0))
    )
    span = alpha_0 - alpha_1
    least = math.exp(0.5 * NO_SIGNAL)
    alpha = jnp.maximum((alpha - alpha_1) * alpha_0 / span, least)
    rest = (alpha_0 * rest - alpha_1 * rest_0) / span
    return 2 * jnp.log(alpha) - jnp.log(rest * (1 + alpha))

  return stretched


SCHEDULES = {'cosine': cosine, 'linear': linear}
