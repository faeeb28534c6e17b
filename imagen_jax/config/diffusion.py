"""The noise process a stage is trained on, and how it is sampled."""

import dataclasses

from imagen_jax.config.checks import above_zero
from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import one_of
from imagen_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
  """The noise process and the training target (fact sheet: paper, app. A).

  docs/diffusion.md has the equations, and the sources of what is not the
  paper's.

  Attributes:
    schedule: log-SNR as a function of time: 'cosine', 'linear',
      'shifted_cosine' (by resolution) or 'edm' (log-normal sigma).
    shift_size: pixels on a side of the pictures to which 'shifted_cosine' is
      the cosine; larger ones are given more noise.
    edm_mean: mean of ln(sigma / alpha), for 'edm'.
    edm_std: standard deviation of ln(sigma / alpha), for 'edm'.
    logsnr_min: least log-SNR; the schedule is clipped to it.
    logsnr_max: greatest log-SNR.
    zero_terminal_snr: stretch the schedule so that t = 1 is pure noise.
    prediction: what the network outputs: 'eps', 'x', 'v' or 'edm', the
      preconditioned output of EDM.
    loss: in which of 'eps', 'x', 'v', 'edm' the squared error is measured.
    sigma_data: standard deviation of the data, for 'edm'.
    weighting: of the loss by noise level: 'plain', 'min_snr', 'truncated_snr'
      or 'sigmoid'; all but 'plain' are independent of `loss`.
    min_snr_gamma: SNR above which 'min_snr' gives no more weight in x.
    sigmoid_bias: log-SNR at the middle of 'sigmoid'.
    self_condition: give the network its last estimate beside its input, and
      in half of the training examples a first one.
    text_drop: share of training examples whose text is zeroed, for guidance.
    aug_schedule: schedule of the low-resolution input's corruption.
    aug_max: largest aug_level drawn in training; 0 turns augmentation off.
  """

  schedule: str = 'cosine'
  shift_size: int = 64
  edm_mean: float = -1.2
  edm_std: float = 1.2
  logsnr_min: float = -20.0
  logsnr_max: float = 20.0
  zero_terminal_snr: bool = False
  prediction: str = 'eps'
  loss: str = 'eps'
  sigma_data: float = 0.5
  weighting: str = 'plain'
  min_snr_gamma: float = 5.0
  sigmoid_bias: float = 2.0
  self_condition: bool = False
  text_drop: float = 0.1
  aug_schedule: str = 'cosine'
  aug_max: float = 1.0

  def __post_init__(self):
    one_of(
      'stage.diffusion.schedule',
      self.schedule,
      ('cosine', 'linear', 'shifted_cosine', 'edm'),
    )
    one_of(
      'stage.diffusion.aug_schedule', self.aug_schedule, ('cosine', 'linear')
    )
    for name in ('prediction', 'loss'):
      value = getattr(self, name)
      one_of(f'stage.diffusion.{name}', value, ('eps', 'x', 'v', 'edm'))
    one_of(
      'stage.diffusion.weighting',
      self.weighting,
      ('plain', 'min_snr', 'truncated_snr', 'sigmoid'),
    )
    at_least('stage.diffusion.shift_size', self.shift_size, 1)
    for name in ('edm_std', 'sigma_data', 'min_snr_gamma'):
      above_zero(f'stage.diffusion.{name}', getattr(self, name))
    # Where nothing of the picture is left, the noise says nothing of it.
    require(
      not (self.zero_terminal_snr and self.prediction == 'eps'),
      "stage.diffusion.prediction is 'eps' with zero_terminal_snr; accepted: "
      "'x', 'v', 'edm'",
    )
    require(
      self.logsnr_min < self.logsnr_max,
      f'stage.diffusion.logsnr_min is {self.logsnr_min}; accepted: less '
      f'than logsnr_max ({self.logsnr_max})',
    )
    for name in ('text_drop', 'aug_max'):
      value = getattr(self, name)
      require(
        0 <= value <= 1,
        f'stage.diffusion.{name} is {value!r}; accepted: [0, 1]',
      )


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
      (EDM's), which is what 'heun' is for.
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

  def __post_init__(self):
    one_of(
      'stage.sample.sampler',
      self.sampler,
      ('ancestral', 'ddim', 'dpmpp', 'dpmpp_sde', 'heun'),
    )
    one_of('stage.sample.spacing', self.spacing, ('time', 'logsnr', 'karras'))
    one_of(
      'stage.sample.guidance',
      self.guidance,
      ('constant', 'interval', 'oscillating'),
    )
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
