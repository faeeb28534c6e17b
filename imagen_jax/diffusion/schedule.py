"""Noise schedules: time t in [0, 1] to log-SNR."""

import math

import jax.numpy as jnp


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


SCHEDULES = {'cosine': cosine, 'linear': linear}
