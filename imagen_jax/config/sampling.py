"""How a trained stage is sampled."""

import dataclasses

from imagen_jax.config.checks import above_zero
from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import default_unless
from imagen_jax.config.checks import finite
from imagen_jax.config.checks import one_of
from imagen_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """How a trained stage is sampled.

  docs/diffusion.md has the equations, and the sources of what is not the
  paper's.

  Attributes:
    sampler: 'ancestral', 'ddim', 'dpmpp' (DPM-Solver++ 2M), 'dpmpp_sde' (its
      stochastic form) or 'heun' (EDM's).
    num_steps: network evaluations a sample (each is two with guidance); 'heun'
      makes two a step, but for the last.
    spacing: of the steps: equal in 'time', equal in 'logsnr', or 'karras'
      (EDM's), which is what 'heun' is for; it takes no steps by 'time'.
    sigma_min: noise by signal of the last step of 'logsnr' and 'karras'.
    sigma_max: noise by signal of their first step.
    rho: of 'karras': the greater, the shorter the steps near the image.
    gamma: noise of the ancestral step, from the posterior's variance (0) to
      the forward process's (1).
    churn: noise that 'heun' adds before its steps, over all of them.
    churn_min: least noise by signal of a step that is churned.
    churn_max: greatest noise by signal of a step that is churned.
    churn_noise: scale of that noise.
    guidance_weight: w in uncond + w * (cond - uncond); 1 is no guidance.
    guidance: 'constant', 'interval' (1 outside of a band of log-SNR) or
      'oscillating' (every second step at a low weight).
    guidance_interval: least and greatest log-SNR that 'interval' guides at.
    oscillate_after: steps of 'oscillating' before the first of low weight.
    oscillate_weight: the low weight.
    guidance_rescale: how far the contrast of x_hat is brought back to what it
      is without guidance, from 0 to 1.
    threshold: what keeps x_hat in range: 'none', 'static' or 'dynamic'.
    percentile: of |x_hat|, for dynamic thresholding, in (0, 1].
    threshold_cap: largest value that dynamic thresholding divides by; None for
      no such bound.
    strength: share of the steps that is taken when a sample starts from a
      picture.
    resample: times that each step is taken where a picture is painted in.
    resample_jump: steps that are gone back at once to be taken again.
    aug_level: time in [0, 1] at which the low-res input is corrupted.
    aug_draw: whether the noise of that is drawn 'once', or anew at 'every'
      call of the network.
  """

  sampler: str = 'ancestral'
  num_steps: int = 256
  spacing: str = 'time'
  sigma_min: float = 0.002
  sigma_max: float = 80.0
  rho: float = 7.0
  gamma: float = 0.0
  churn: float = 0.0
  churn_min: float = 0.05
  churn_max: float = 50.0
  churn_noise: float = 1.003
  guidance_weight: float = 7.5
  guidance: str = 'constant'
  guidance_interval: tuple[float, ...] = (-3.4, 2.5)
  oscillate_after: int = 15
  oscillate_weight: float = 1.0
  guidance_rescale: float = 0.0
  threshold: str = 'dynamic'
  percentile: float = 0.995
  threshold_cap: float | None = None
  strength: float = 1.0
  resample: int = 1
  resample_jump: int = 1
  aug_level: float = 0.1
  aug_draw: str = 'once'

  def __post_init__(self):
    one_of(
      'stage.sample.sampler',
      self.sampler,
      ('ancestral', 'ddim', 'dpmpp', 'dpmpp_sde', 'heun'),
    )
    one_of('stage.sample.spacing', self.spacing, ('time', 'logsnr', 'karras'))
    # Its slopes are in noise by signal, in which the first steps of time are
    # thousands long: exact for the denoiser, they miss the picture.
    require(
      self.sampler != 'heun' or self.spacing != 'time',
      "stage.sample.spacing is 'time' with stage.sample.sampler 'heun'; "
      "accepted: 'karras', 'logsnr'",
    )
    one_of(
      'stage.sample.guidance',
      self.guidance,
      ('constant', 'interval', 'oscillating'),
    )
    one_of('stage.sample.aug_draw', self.aug_draw, ('once', 'every'))
    one_of(
      'stage.sample.threshold',
      self.threshold,
      ('none', 'static', 'dynamic'),
    )
    for name in ('num_steps', 'resample', 'resample_jump'):
      at_least(f'stage.sample.{name}', getattr(self, name), 1)
    for name in (
      'guidance_weight',
      'oscillate_after',
      'oscillate_weight',
      'churn',
      'churn_min',
    ):
      at_least(f'stage.sample.{name}', getattr(self, name), 0)
    for name in ('guidance_weight', 'oscillate_weight', 'churn'):
      finite(f'stage.sample.{name}', getattr(self, name))
    for name in ('sigma_min', 'sigma_max', 'rho', 'churn_noise', 'strength'):
      above_zero(f'stage.sample.{name}', getattr(self, name))
    require(
      self.sigma_min < self.sigma_max,
      f'stage.sample.sigma_min is {self.sigma_min}; accepted: less than '
      f'sigma_max ({self.sigma_max})',
    )
    require(
      self.churn_min <= self.churn_max,
      f'stage.sample.churn_min is {self.churn_min}; accepted: at most '
      f'churn_max ({self.churn_max})',
    )
    require(
      self.churn == 0 or self.sampler == 'heun',
      f'stage.sample.churn is {self.churn} with stage.sample.sampler '
      f'{self.sampler!r}; accepted: 0, or stage.sample.sampler heun',
    )
    require(
      self.gamma == 0 or self.sampler == 'ancestral',
      f'stage.sample.gamma is {self.gamma} with stage.sample.sampler '
      f'{self.sampler!r}; accepted: 0, or stage.sample.sampler ancestral',
    )
    require(
      self.guidance != 'oscillating' or self.oscillate_after < self.num_steps,
      f'stage.sample.oscillate_after is {self.oscillate_after} with '
      f'stage.sample.num_steps {self.num_steps}; accepted: fewer than these, '
      "or stage.sample.guidance 'constant'",
    )
    require(
      self.threshold_cap is None or self.threshold == 'dynamic',
      f'stage.sample.threshold_cap is {self.threshold_cap} with '
      f'stage.sample.threshold {self.threshold!r}; accepted: none, or '
      'stage.sample.threshold dynamic',
    )
    require(
      len(self.guidance_interval) == 2
      and self.guidance_interval[0] < self.guidance_interval[1],
      f'stage.sample.guidance_interval is {list(self.guidance_interval)}; '
      'accepted: the least and the greatest log-SNR, [least, greatest]',
    )
    require(
      self.threshold_cap is None or self.threshold_cap >= 1,
      f'stage.sample.threshold_cap is {self.threshold_cap}; accepted: 1 or '
      'more, or none',
    )
    for name in (
      'gamma',
      'percentile',
      'aug_level',
      'guidance_rescale',
      'strength',
    ):
      value = getattr(self, name)
      require(
        0 <= value <= 1, f'stage.sample.{name} is {value!r}; accepted: [0, 1]'
      )
    # The 0th percentile is the least value: all of a picture would be clipped.
    require(
      self.percentile > 0,
      f'stage.sample.percentile is {self.percentile!r}; accepted: (0, 1]',
    )
    self._check_read()

  def _check_read(self):
    """Raises ValueError where a field is set that no other lets be read."""
    steps, noise = ('sigma_min', 'sigma_max'), ('min', 'max', 'noise')
    turns = ('oscillate_after', 'oscillate_weight')
    for names, is_read, accepted in (
      (steps, self.spacing != 'time', "spacing 'logsnr' or 'karras'"),
      (('rho',), self.spacing == 'karras', "spacing 'karras'"),
      ([f'churn_{n}' for n in noise], self.churn > 0, 'churn above 0'),
      (
        ('guidance_interval',),
        self.guidance == 'interval',
        "guidance 'interval'",
      ),
      (turns, self.guidance == 'oscillating', "guidance 'oscillating'"),
      (('percentile',), self.threshold == 'dynamic', "threshold 'dynamic'"),
      (('resample_jump',), self.resample > 1, 'resample above 1'),
    ):
      default_unless(
        self, 'stage.sample', names, is_read, f'stage.sample.{accepted}'
      )
