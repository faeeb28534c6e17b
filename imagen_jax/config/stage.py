"""One stage of the cascade."""

import dataclasses
import math

from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import require
from imagen_jax.config.diffusion import DiffusionConfig
from imagen_jax.config.network import UNetConfig
from imagen_jax.config.sampling import SampleConfig


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """One stage of the cascade: the base, or a super-resolution stage.

  Attributes:
    name: printed, and the folder of an export.
    image_size: pixels on a side of the pictures that the stage is trained on,
      and makes where `whole_size` is None.
    lowres_size: pixels on a side of their low-res input; None for the base.
    unet: the network.
    diffusion: the noise process and target.
    sample: sampling defaults, stored with an export.
    whole_size: pixels on a side of the pictures that the stage is run on,
      where it is trained on crops of them of `image_size` (paper, section
      2.5); None where it is trained on what it makes.
  """

  name: str = 'base64'
  image_size: int = 64
  lowres_size: int | None = None
  unet: UNetConfig = UNetConfig()
  diffusion: DiffusionConfig = DiffusionConfig()
  sample: SampleConfig = SampleConfig()
  whole_size: int | None = None

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
    if self.whole_size is not None:
      self._check_whole()
    self._check_trained()

  def _check_trained(self):
    """Raises ValueError where sampling asks for what training leaves out."""
    level, most = self.sample.aug_level, self.diffusion.aug_max
    require(
      self.lowres_size is None or level <= most,
      f'stage.sample.aug_level is {level}, which is not trained; accepted: up '
      f'to stage.diffusion.aug_max ({most})',
    )
    weight = self.sample.guidance_weight
    require(
      self.diffusion.text_drop > 0 or weight == 1,
      f'stage.sample.guidance_weight is {weight} with '
      'stage.diffusion.text_drop 0, so that nothing is trained without text; '
      'accepted: 1, or a stage.diffusion.text_drop above 0',
    )

  def _check_whole(self):
    """Raises ValueError unless the network can be run on larger pictures."""
    require(
      self.lowres_size is not None,
      f'stage.whole_size is {self.whole_size} without stage.lowres_size; '
      'accepted: none, as a base stage has nothing that tells it where in a '
      'picture a crop lies',
    )
    step = math.lcm(self.unet.downsampling, self.image_size // self.lowres_size)
    require(
      self.whole_size > self.image_size and self.whole_size % step == 0,
      f'stage.whole_size is {self.whole_size}; accepted: multiples of {step}, '
      'by which stage.unet downsamples and the stage enlarges, above '
      f'stage.image_size ({self.image_size}); or none',
    )
    require(
      not any(self.unet.self_attention),
      f'stage.unet.self_attention is {list(self.unet.self_attention)} with '
      f'stage.whole_size {self.whole_size}; accepted: false at every level, '
      'as over more pixels it is not what was trained',
    )
    require(
      not self.unet.coordinates,
      'stage.unet.coordinates is true with stage.whole_size '
      f'{self.whole_size}; accepted: false, as a crop has other places',
    )

  @property
  def output_size(self) -> int:
    """Pixels on a side of the pictures that the stage makes."""
    return self.whole_size or self.image_size

  @property
  def input_size(self) -> int | None:
    """Pixels on a side of what it makes them from; None for the base."""
    if self.lowres_size is None:
      return None
    return self.output_size * self.lowres_size // self.image_size
