"""The order of a sampler's calls of the network, laid out before it runs.

Whatever differs from call to call is an array with a row a call, so that one
loop, compiled once, serves every sampler.
"""

import typing

import jax.numpy as jnp
import numpy as np


class Plan(typing.NamedTuple):
  """The calls of the network, in order; each field is [calls].

  Attributes:
    step: of the sample, from 0; a corrector has that of its predictor.
    logsnr_z: where z stands before the call. Above `logsnr_t` where z is to
      be noised first: by churn, or on returning to repeat some steps.
    returns: whether it is for the latter.
    logsnr_t: where the step starts.
    logsnr_s: where it goes.
    extrapolate: how much of the change of x_hat since the last call is added
      to it (`dpm_extrapolation`); 0 where there is no last call.
    correct: whether the call is Heun's second, at `logsnr_s`.
  """

  step: jnp.ndarray
  logsnr_z: jnp.ndarray
  returns: jnp.ndarray
  logsnr_t: jnp.ndarray
  logsnr_s: jnp.ndarray
  extrapolate: jnp.ndarray
  correct: jnp.ndarray


def first_step(num_steps, strength):
  """The step at which to start from a noised image: `strength` of them stay.

  Args:
    num_steps: of a whole sample.
    strength: in (0, 1]; 1 is a whole sample, from step 0.
  """
  return num_steps - max(1, round(num_steps * strength))


def moves(num_steps, *, first=0, repeats=1, jump=1):
  """The steps to take, in order, as a list of (where z stands, step).

  RePaint (arXiv:2201.09865) takes each `jump` steps `repeats` times: it goes
  back over them by noising z, and what was kept and what was made fit each
  other better each time. The steps that are left before the end are taken
  once.

  Args:
    num_steps: of a whole sample.
    first: the step to start at.
    repeats: times that each step is taken.
    jump: steps that are gone back at once.
  """
  found = []
  at = step = first
  done = 1
  while step < num_steps:
    found.append((at, step))
    step += 1
    at = step
    if step < num_steps and (step - first) % jump == 0:
      if done < repeats:
        done += 1
        step -= jump
      else:
        done = 1
  return found


def lay_out(logsnr, *, sampler, first=0, repeats=1, jump=1, churn=None) -> Plan:
  """The calls of a sampler.

  Args:
    logsnr: [num_steps + 1], falling sigma; the last is never called at.
    sampler: 'heun' calls twice a step but for the last step; others once.
    first: see `moves`.
    repeats: see `moves`.
    jump: see `moves`.
    churn: share by which sigma grows before a step, [num_steps]; None for none.
  """
  num_steps = len(logsnr) - 1
  extrapolation = dpm_extrapolation(logsnr)
  places, steps, correct, follows = [], [], [], []
  last = None
  for at, step in moves(num_steps, first=first, repeats=repeats, jump=jump):
    for is_second in (False, True):
      if is_second and (sampler != 'heun' or step == num_steps - 1):
        continue
      places.append(at)
      steps.append(step)
      correct.append(is_second)
      follows.append(last is not None and step == last + 1)
    last = step
  places, steps = np.array(places), np.array(steps)
  logsnr_t = logsnr[steps]
  if churn is not None:
    logsnr_t = logsnr_t - 2 * jnp.log1p(churn[steps])
  return Plan(
    step=jnp.asarray(steps),
    logsnr_z=logsnr[places],
    returns=jnp.asarray(places > steps),
    logsnr_t=logsnr_t,
    logsnr_s=logsnr[steps + 1],
    extrapolate=jnp.where(np.array(follows), extrapolation[steps], 0.0),
    correct=jnp.asarray(correct),
  )


def dpm_extrapolation(logsnr):
  """h / (2 h_last) of each step, [num_steps], 0 for the first.

  DPM-Solver++ (arXiv:2211.01095), algorithm 2, where h is the length of a step
  in half log-SNR: x_hat is carried on, as it has been changing, to the middle
  of the step.
  """
  length = jnp.diff(logsnr)
  before = length[:-1]
  # Where the schedule is clipped a step has no length, and tells no change.
  moved = before > 0
  share = 0.5 * length[1:] / jnp.where(moved, before, 1.0)
  return jnp.concatenate([jnp.zeros(1), jnp.where(moved, share, 0.0)])
