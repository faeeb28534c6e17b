"""One stage of the cascade."""

import dataclasses

from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import require
from imagen_jax.config.diffusion import DiffusionConfig
from imagen_jax.config.diffusion import SampleConfig
from imagen_jax.config.network import UNetConfig


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """One stage of the cascade: the base, or a super-resolution stage.

  Attributes:
    name: printed, and the folder of an export.
    image_size: pixels on a side of the pictures that the stage makes.
    lowres_size: pixels on a side of its low-res input; None for the base.
    unet: the network.
    diffusion: the noise process and target.
    sample: sampling defaults, stored with an export.
  """

  name: str = 'base64'
  image_size: int = 64
  lowres_size: int | None = None
  unet: UNetConfig = UNetConfig()
  diffusion: DiffusionConfig = DiffusionConfig()
  sample: SampleConfig = SampleConfig()

  def __post_init__(self):
    at_least('stage.image_size', self.image_size, 4)
    step = self.unet.downsampling
    require(
      self.image_size % step == 0,
      f'stage.image_size is {self.image_size}; accepted: multiples of '
      f'{step}, by which stage.unet downsamples',
    )
    if self.lowres_size is not None:
      require(
        0 < self.lowres_size < self.image_size
        and self.image_size % self.lowres_size == 0,
        f'stage.lowres_size is {self.lowres_size}; accepted: a proper '
        f'divisor of stage.image_size ({self.image_size}), or none',
      )
