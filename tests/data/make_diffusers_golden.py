"""Makes diffusers-golden.json: what diffusers' samplers and formulas give.

Not run by the tests, which need neither package:

    pip install diffusers==0.29.2 torch
    python tests/data/make_diffusers_golden.py

The "network" is `denoise`, and noise comes from NumPy, so that both are easily
had on the other side.
"""

import json
import pathlib

import diffusers
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion
from diffusers.schedulers import scheduling_ddim
import numpy as np
import torch

NUM_STEPS = 8
SHAPE = (2, 1, 2, 3)


def denoise(z, logsnr):
  """Some function that a denoiser might be: bends, and knows the noise."""
  alpha = 1 / np.sqrt(1 + np.exp(-logsnr))
  return np.tanh(1.3 * alpha * z) - 0.2 * np.exp(-((logsnr / 4) ** 2))


def noise(number):
  return np.random.default_rng(number).normal(size=SHAPE)


def tensor(x):
  return torch.tensor(x, dtype=torch.float64)


def betas():
  return np.linspace(1e-4, 0.02, 1000)


def logsnr_of(timesteps):
  kept = np.cumprod(1 - betas())[np.asarray(timesteps, int)]
  return np.log(kept / (1 - kept))


COMMON = {'trained_betas': betas(), 'prediction_type': 'sample'}


def variance_preserving(scheduler, logsnr, **options):
  """z after each step, of a scheduler that works on our z."""
  scheduler.set_timesteps(NUM_STEPS)
  z, path = noise(0), []
  for number, t in enumerate(scheduler.timesteps):
    x_hat = tensor(denoise(z, logsnr(scheduler, number)))
    chosen = {name: f(number) for name, f in options.items()}
    z = scheduler.step(x_hat, t, tensor(z), **chosen).prev_sample.numpy()
    path.append(z.tolist())
  steps = [float(logsnr(scheduler, n)) for n in range(NUM_STEPS)]
  return {'logsnr': steps, 'path': path}


def by_timestep(scheduler, number):
  return logsnr_of([int(scheduler.timesteps[number])])[0]


def by_sigma(scheduler, number):
  return -2 * np.log(float(scheduler.sigmas[number]))


def ddim():
  scheduler = diffusers.DDIMScheduler(**COMMON, clip_sample=False)
  return variance_preserving(scheduler, by_timestep)


def dpm(**options):
  scheduler = diffusers.DPMSolverMultistepScheduler(
    **COMMON, solver_order=2, final_sigmas_type='zero', **options
  )
  more = {}
  if options['algorithm_type'].startswith('sde'):
    more['variance_noise'] = lambda number: tensor(noise(number + 1))
  return variance_preserving(scheduler, by_sigma, **more)


def heun():
  """In its own coordinates, of an image with noise added."""
  scheduler = diffusers.HeunDiscreteScheduler(
    trained_betas=betas(), use_karras_sigmas=True
  )
  scheduler.set_timesteps(NUM_STEPS)
  sigma = [float(s) for s in scheduler.sigmas]
  y, path = noise(0) * np.hypot(1, sigma[0]), []
  for number, t in enumerate(scheduler.timesteps):
    # A predictor stands at its own sigma, a corrector at the next.
    here = sigma[number]
    logsnr = -2 * np.log(here)
    eps_hat = (y - denoise(y / np.hypot(1, here), logsnr)) / here
    y = scheduler.step(tensor(eps_hat), t, tensor(y)).prev_sample.numpy()
    path.append(y.tolist())
  unique = [sigma[0], *sigma[1:-1:2]]
  return {'logsnr': [-2 * np.log(s) for s in unique], 'path': path[-1]}


def karras():
  scheduler = diffusers.HeunDiscreteScheduler()
  spaced = scheduler._convert_to_karras(np.array([80.0, 0.002]), NUM_STEPS)
  return np.asarray(spaced).tolist()


def zero_terminal_snr():
  stretched = scheduling_ddim.rescale_zero_terminal_snr(tensor(betas()))
  alpha = torch.cumprod(1 - stretched, 0).sqrt().numpy()
  places = [0, 1, 9, 99, 249, 499, 749, 949, 999]
  return {'places': places, 'alpha': alpha[places].tolist()}


def rescaled():
  found = pipeline_stable_diffusion.rescale_noise_cfg(
    tensor(3 * noise(1) + 0.2), tensor(noise(2)), guidance_rescale=0.7
  )
  return found.numpy().tolist()


def thresholded():
  """Under a percentile with a cap, which the first image is above."""
  x = 3 * noise(3)
  x[1] *= 0.45
  found = {'x': x.tolist()}
  for cap in (1.0, 1.5, 100.0):
    scheduler = diffusers.DDIMScheduler(
      thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=cap
    )
    out = scheduler._threshold_sample(torch.tensor(x, dtype=torch.float32))
    found[str(cap)] = out.numpy().tolist()
  return found


def main():
  """Writes the file beside this one."""
  golden = {
    'made_by': f'diffusers {diffusers.__version__}, torch {torch.__version__}',
    'noise': [noise(n).tolist() for n in range(NUM_STEPS + 1)],
    'ddim': ddim(),
    'dpmpp': dpm(algorithm_type='dpmsolver++'),
    'dpmpp_karras': dpm(algorithm_type='dpmsolver++', use_karras_sigmas=True),
    'dpmpp_sde': dpm(algorithm_type='sde-dpmsolver++'),
    'heun': heun(),
    'karras': karras(),
    'zero_terminal_snr': zero_terminal_snr(),
    'rescaled': rescaled(),
    'thresholded': thresholded(),
  }
  path = pathlib.Path(__file__).with_name('diffusers-golden.json')
  path.write_text(json.dumps(golden, indent=1) + '\n')


if __name__ == '__main__':
  main()
