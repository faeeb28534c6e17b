"""Samplers beside Hugging Face diffusers: whole runs of a toy denoiser.

tests/data/make_diffusers_golden.py says how its numbers were made.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import process
from imagen_jax.diffusion import sampler
from imagen_jax.diffusion import spacing


def run(golden, name, monkeypatch, **options):
  """z before each call, and the sample, of the run that `golden` names."""
  noise = jnp.asarray(golden['noise'], jnp.float32)
  seen = []

  def denoise(z, logsnr, *_):
    note = lambda z: seen.append(np.asarray(z))
    jax.debug.callback(note, z, ordered=True)
    alpha, _ = process.alpha_sigma(process.broadcast(logsnr, z))
    bent = jnp.tanh(1.3 * alpha * z)
    return bent - 0.2 * jnp.exp(-((process.broadcast(logsnr, z) / 4) ** 2))

  # Keys that say their image and number of call find the noise that the other
  # program was given.
  def normal(key, shape):
    image, call = jax.random.key_data(key)
    return noise[call, image]

  monkeypatch.setattr(
    sampler.jax.random,
    'fold_in',
    lambda key, call: jax.random.wrap_key_data(
      jnp.stack([jax.random.key_data(key)[0], jnp.asarray(call, jnp.uint32)])
    ),
  )
  monkeypatch.setattr(sampler.jax.random, 'normal', normal)
  steps = golden[name]['logsnr']
  keys = jax.random.wrap_key_data(jnp.array([[0, 0], [1, 0]], jnp.uint32))
  x = sampler.sample(
    denoise,
    keys,
    noise.shape[2:],
    logsnr=jnp.array([*steps, steps[-1]], jnp.float32),
    **options,
  )
  jax.effects_barrier()
  return seen, x


@pytest.mark.parametrize(
  'name, chosen',
  [
    ('ddim', 'ddim'),
    ('dpmpp', 'dpmpp'),
    ('dpmpp_karras', 'dpmpp'),
    ('dpmpp_sde', 'dpmpp_sde'),
  ],
)
def test_every_step_is_the_others(name, chosen, golden, monkeypatch):
  seen, x = run(golden, name, monkeypatch, sampler=chosen)
  path = np.array(golden[name]['path'])
  np.testing.assert_allclose(seen[1:], path[:-1], rtol=2e-3, atol=2e-4)
  np.testing.assert_allclose(x, path[-1], rtol=2e-3, atol=2e-4)


def test_heun_ends_where_the_other_does(golden, monkeypatch):
  _, x = run(golden, 'heun', monkeypatch, sampler='heun')
  np.testing.assert_allclose(x, golden['heun']['path'], rtol=2e-3, atol=2e-4)


def test_the_samplers_differ(golden):
  """Or agreement would say nothing."""
  ends = [np.array(golden[n]['path'][-1]) for n in ('ddim', 'dpmpp')]
  assert np.abs(ends[0] - ends[1]).max() > 0.01
  ends = [np.array(golden[n]['path'][-1]) for n in ('dpmpp', 'dpmpp_sde')]
  assert np.abs(ends[0] - ends[1]).max() > 0.01


def test_karras_steps_are_the_others(golden):
  found = spacing.by_sigma(8, sigma_min=0.002, sigma_max=80.0, rho=7.0)
  sigma = np.exp(-0.5 * np.asarray(found, float))
  np.testing.assert_allclose(sigma[:-1], golden['karras'], rtol=1e-3)
