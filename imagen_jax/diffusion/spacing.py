"""Where a sampler stops on its way from noise: a log-SNR a step."""

import jax.numpy as jnp


def by_time(num_steps, *, schedule):
  """Equal steps of time from 1 to 0 (paper, appendix A), [num_steps + 1]."""
  return schedule(jnp.linspace(1.0, 0.0, num_steps + 1))


def by_logsnr(num_steps, *, sigma_min, sigma_max):
  """Equal steps of log-SNR, as DPM-Solver has them; see `by_sigma`."""
  return _to_the_end(
    jnp.linspace(jnp.log(sigma_max), jnp.log(sigma_min), num_steps)
  )


def by_sigma(num_steps, *, sigma_min, sigma_max, rho):
  """Karras's steps: equal in sigma^(1 / rho), where sigma is noise by signal.

  EDM (arXiv:2206.00364), equation 5. The last of the `num_steps` calls of the
  network is made at `sigma_min`, and what it says is the sample.

  Args:
    num_steps: calls of the network that are not a corrector's.
    sigma_min: sigma of the last.
    sigma_max: sigma of the first.
    rho: 1 spaces sigma evenly; the more, the shorter the steps near the image.

  Returns:
    Log-SNR, [num_steps + 1]; the last step has no length.
  """
  root = jnp.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps)
  return _to_the_end(rho * jnp.log(root))


def _to_the_end(log_sigma):
  return -2 * jnp.append(log_sigma, log_sigma[-1])


def logsnr_steps(
  num_steps, *, spacing, schedule, sigma_min=0.002, sigma_max=80.0, rho=7.0
):
  """The log-SNRs of `spacing`: 'time', 'logsnr' or 'karras'.

  Returns:
    [num_steps + 1], of which a sampler calls the network at all but the last.

  Raises:
    ValueError: for another spacing.
  """
  if spacing == 'time':
    return by_time(num_steps, schedule=schedule)
  ends = {'sigma_min': sigma_min, 'sigma_max': sigma_max}
  if spacing == 'logsnr':
    return by_logsnr(num_steps, **ends)
  if spacing == 'karras':
    return by_sigma(num_steps, rho=rho, **ends)
  raise ValueError(
    f"spacing is {spacing!r}; accepted: 'time', 'logsnr', 'karras'"
  )
