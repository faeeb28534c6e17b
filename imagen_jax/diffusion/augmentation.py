"""Noise-conditioning augmentation: the low-res image made to condition on.

Paper, section 2.4. What it leaves open is named in `config.DiffusionConfig`.
"""

import chex
import jax

from imagen_jax import config
from imagen_jax.diffusion import process
from imagen_jax.diffusion import schedule

# Kernels by which a low-res image is enlarged, as `jax.image` calls them.
_KERNELS = {'bilinear': 'bilinear', 'bicubic': 'cubic'}


def logsnr_of(diffusion: config.DiffusionConfig):
  """aug_level -> log-SNR of the low-res input's corruption."""
  function = schedule.SCHEDULES[diffusion.aug_schedule]
  return lambda level: function(
    level, logsnr_min=diffusion.logsnr_min, logsnr_max=diffusion.logsnr_max
  )


def corrupt_lowres(lowres, eps, aug_level, *, image_size, diffusion):
  """A low-res image made ready to condition on (paper, section 2.4).

  It is upsampled, then noised, so that the noise is fresh for every pixel; or,
  where `aug_noise` is 'before', the other way around.

  Args:
    lowres: [B, h, w, 3] in [-1, 1].
    eps: standard normal, [B, H, W, 3], or of the shape of `lowres` where noise
      comes before.
    aug_level: [B], in [0, 1].
    image_size: H and W.
    diffusion: the stage's; gives schedule, kernel and order of the corruption.

  Returns:
    The corrupted image [B, H, W, 3] and its log-SNR [B].
  """
  batch, _, _, channels = lowres.shape
  shape = (batch, image_size, image_size, channels)
  logsnr = logsnr_of(diffusion)(aug_level)
  enlarge = lambda x: jax.image.resize(x, shape, _KERNELS[diffusion.aug_kernel])
  if diffusion.aug_noise == 'before':
    return enlarge(process.diffuse(lowres, eps, logsnr)), logsnr
  chex.assert_shape(eps, shape)
  return process.diffuse(enlarge(lowres), eps, logsnr), logsnr


def noise_size(size, stage: config.StageConfig):
  """Pixels on a side of the noise of the low-res input of `size` pixels."""
  if stage.diffusion.aug_noise == 'before':
    return size * stage.lowres_size // stage.image_size
  return size
