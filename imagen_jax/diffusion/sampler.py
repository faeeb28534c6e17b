"""Samplers: from noise to an image by a `denoise(z, logsnr, ...) -> x_hat`."""

import math
import typing

import jax
import jax.numpy as jnp

from imagen_jax.diffusion import plan
from imagen_jax.diffusion import process

SAMPLERS = ('ancestral', 'ddim', 'dpmpp', 'dpmpp_sde', 'heun')

# Noise for other ends than the step's own is of other keys.
_RENOISE, _KNOWN = 2**31 - 1, 2**31 - 2


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


def extrapolate(x_hat, x_last, share):
  """`x_hat` carried on by `share` of its change since the last step.

  DPM-Solver++ 2M (arXiv:2211.01095, equation 12, D of algorithm 2) is this
  before a DDIM step, and its stochastic form before the ancestral step of
  gamma 0.

  Args:
    x_hat: denoised image, [B, H, W, C].
    x_last: that of the step before, [B, H, W, C].
    share: of `plan.dpm_extrapolation`, a scalar.
  """
  return x_hat + share * (x_hat - x_last)


def heun_correction(x_hat, z_s, x_first, z_t, logsnr_t, logsnr_s):
  """What to add to an Euler (DDIM) step, so that its slope is of both ends.

  EDM (arXiv:2206.00364), algorithm 1: the slope in sigma / alpha of z / alpha
  is eps_hat; half of each end's is taken.

  Args:
    x_hat: denoised image of `z_s`, [B, H, W, C].
    z_s: where the Euler step has led, [B, H, W, C].
    x_first: denoised image of `z_t`, [B, H, W, C].
    z_t: where it started, [B, H, W, C].
    logsnr_t: log-SNR of `z_t`, [B].
    logsnr_s: log-SNR of `z_s`, [B].
  """
  alpha_t, sigma_t = process.alpha_sigma(process.broadcast(logsnr_t, z_t))
  alpha_s, sigma_s = process.alpha_sigma(process.broadcast(logsnr_s, z_t))
  change = process.from_x('eps', x_hat, z_s, logsnr_s) - process.from_x(
    'eps', x_first, z_t, logsnr_t
  )
  return 0.5 * (sigma_s - sigma_t * alpha_s / alpha_t) * change


class Churn(typing.NamedTuple):
  """Noise that 'heun' adds before a step: EDM, algorithm 2, S_churn and so on.

  Attributes:
    amount: 0 for none; shared out over the steps.
    sigma_min: least sigma / alpha of a step that is churned.
    sigma_max: greatest.
    noise: scale of the noise that is added; a little above 1 makes up for a
      denoiser that removes too much.
  """

  amount: float = 0.0
  sigma_min: float = 0.0
  sigma_max: float = math.inf
  noise: float = 1.0

  def shares(self, logsnr):
    """By how much of itself sigma grows before each step, [num_steps]."""
    sigma = jnp.exp(-0.5 * logsnr[:-1])
    inside = (self.sigma_min <= sigma) & (sigma <= self.sigma_max)
    share = min(self.amount / sigma.shape[0], 2**0.5 - 1)
    return jnp.where(inside, share, 0.0)


def sample(
  denoise,
  keys,
  shape,
  *,
  logsnr,
  sampler='ancestral',
  gamma=0.0,
  churn=Churn(),
  image=None,
  mask=None,
  strength=1.0,
  repeats=1,
  jump=1,
):
  """Images drawn by stepping from noise along `logsnr`.

  Args:
    denoise: (z [B, *shape], logsnr [B], step, x_last [B, *shape], call) ->
      x_hat [B, *shape], guided and thresholded. `step`, a scalar from 0, and
      the x_hat of the call before, zero at first, are for guidance that changes
      from step to step and for self-conditioning; `call`, a scalar from 1, is
      for noise that is drawn anew at every call.
    keys: one PRNG key an image, [B]: an image does not depend on the others
      of its batch. Folded by call, so that two samplers of the same keys share
      their first noise.
    shape: of one image, (H, W, C).
    logsnr: of the steps, [num_steps + 1]; see `spacing.logsnr_steps`.
    sampler: one of `SAMPLERS`. 'heun' calls `denoise` twice a step, but for
      the last; the others once.
    gamma: of 'ancestral'; see `ancestral_step`.
    churn: of 'heun'.
    image: [B, *shape] to start from, or to keep outside of `mask`.
    mask: [B, H, W, 1], 1 where `image` is to be painted anew and 0 where it
      stays; None for everywhere.
    strength: share of the steps that is taken. Below 1 they start from
      `image`, noised (SDEdit, arXiv:2108.01073).
    repeats: times that each step is taken; see `plan.moves`.
    jump: see `plan.moves`.

  Returns:
    [B, *shape]; the last step returns x_hat itself, without noise.

  Raises:
    ValueError: for another sampler.
  """
  if sampler not in SAMPLERS:
    accepted = ', '.join(map(repr, SAMPLERS))
    raise ValueError(f'sampler is {sampler!r}; accepted: {accepted}')
  batch = keys.shape[0]
  churned = sampler == 'heun' and churn.amount > 0
  first = plan.first_step(len(logsnr) - 1, strength)
  calls = plan.lay_out(
    logsnr,
    sampler=sampler,
    first=first,
    repeats=repeats,
    jump=jump,
    churn=churn.shares(logsnr) if churned else None,
  )

  def normal(call, purpose=None):
    def draw(key):
      if purpose is not None:
        key = jax.random.fold_in(key, purpose)
      return jax.random.normal(jax.random.fold_in(key, call), shape)

    return jax.vmap(draw)(keys)

  def per_image(logsnr):
    return jnp.full((batch,), logsnr)

  def call(carry, inputs):
    z, x_last, start = carry
    index, at = inputs
    logsnr_t, logsnr_s = per_image(at.logsnr_t), per_image(at.logsnr_s)
    if churned or repeats > 1:
      noise = normal(index, _RENOISE)
      if churned:
        # Made to measure for churn; going back is the forward process itself.
        noise *= jnp.where(at.returns, 1.0, churn.noise)
      noised = process.renoise(z, noise, per_image(at.logsnr_z), logsnr_t)
      z = jnp.where(at.correct, z, noised)
    if sampler == 'heun':
      here = jnp.where(at.correct, logsnr_s, logsnr_t)
      x_hat = denoise(z, here, at.step, x_last, index)
      # Each is computed in both calls, and one of them kept.
      more = heun_correction(x_hat, z, *start, logsnr_t, logsnr_s)
      start = jax.tree.map(
        lambda old, new: jnp.where(at.correct, old, new), start, (x_hat, z)
      )
      euler = ddim_step(x_hat, z, logsnr_t, logsnr_s)
      z = jnp.where(at.correct, z + more, euler)
    else:
      x_hat = denoise(z, logsnr_t, at.step, x_last, index)
      toward = x_hat
      if sampler in ('dpmpp', 'dpmpp_sde'):
        toward = extrapolate(x_hat, x_last, at.extrapolate)
      if sampler in ('ddim', 'dpmpp'):
        z = ddim_step(toward, z, logsnr_t, logsnr_s)
      else:
        noise = normal(index)
        amount = gamma if sampler == 'ancestral' else 0.0
        z = ancestral_step(toward, z, noise, logsnr_t, logsnr_s, gamma=amount)
    if mask is not None:
      known = process.diffuse(image, normal(index, _KNOWN), logsnr_s)
      merged = mask * z + (1 - mask) * known
      # Between Heun's two calls z is half a step's, which nothing replaces.
      half = (sampler == 'heun') & ~at.correct
      z = jnp.where(half, z, merged)
    return (z, x_hat, start), None

  # The last step's z is dropped: it costs less than to compile the network a
  # second time, outside of the scan.
  z = normal(0)
  if image is not None and first > 0:
    z = process.diffuse(image, z, per_image(logsnr[first]))
  index = jnp.arange(1, len(calls.step) + 1)
  start = (jnp.zeros_like(z), z) if sampler == 'heun' else ()
  carry = (z, jnp.zeros_like(z), start)
  (_, x_hat, _), _ = jax.lax.scan(call, carry, (index, calls))
  if mask is not None:
    x_hat = mask * x_hat + (1 - mask) * image
  return x_hat
