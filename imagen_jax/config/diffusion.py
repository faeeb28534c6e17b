"""The noise process that a stage is trained on."""

import dataclasses

from imagen_jax.config.checks import above_zero
from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import default_unless
from imagen_jax.config.checks import finite
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
    cosine_offset: s of 'cosine': 0, or Improved DDPM's 0.008, of which the
      paper does not tell.
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
    aug_per: whether each 'example' or each 'batch' has an aug_level of its own.
    aug_noise: whether the noise is added 'after' the low-res image is
      enlarged, fresh for every pixel, or 'before', and enlarged with it.
    aug_kernel: by which it is enlarged: 'bilinear' or 'bicubic'.
  """

  schedule: str = 'cosine'
  shift_size: int = 64
  cosine_offset: float = 0.0
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
  aug_per: str = 'example'
  aug_noise: str = 'after'
  aug_kernel: str = 'bilinear'

  def __post_init__(self):
    one_of(
      'stage.diffusion.schedule',
      self.schedule,
      ('cosine', 'linear', 'shifted_cosine', 'edm'),
    )
    one_of(
      'stage.diffusion.aug_schedule', self.aug_schedule, ('cosine', 'linear')
    )
    for name, accepted in (
      ('aug_per', ('example', 'batch')),
      ('aug_noise', ('after', 'before')),
      ('aug_kernel', ('bilinear', 'bicubic')),
    ):
      one_of(f'stage.diffusion.{name}', getattr(self, name), accepted)
    require(
      0 <= self.cosine_offset < 1,
      f'stage.diffusion.cosine_offset is {self.cosine_offset!r}; accepted: '
      '[0, 1)',
    )
    require(
      self.cosine_offset == 0 or self.schedule == 'cosine',
      f'stage.diffusion.cosine_offset is {self.cosine_offset} with '
      f'stage.diffusion.schedule {self.schedule!r}; accepted: 0, or '
      'stage.diffusion.schedule cosine',
    )
    for name in ('prediction', 'loss'):
      value = getattr(self, name)
      one_of(f'stage.diffusion.{name}', value, ('eps', 'x', 'v', 'edm'))
    one_of(
      'stage.diffusion.weighting',
      self.weighting,
      ('plain', 'min_snr', 'truncated_snr', 'sigmoid'),
    )
    # An error in x is one in eps times the root of the SNR, which goes from
    # e^logsnr_min to e^logsnr_max; v and edm are between the two.
    if self.prediction in ('x', 'eps'):
      more = "'truncated_snr', " if self.prediction == 'x' else ''
      require(
        self.weighting != 'plain' or self.loss == self.prediction,
        f'stage.diffusion.loss is {self.loss!r} with '
        f'stage.diffusion.prediction {self.prediction!r}, an error that is '
        f'enlarged without bound; accepted: {self.prediction!r}, or '
        f"stage.diffusion.weighting {more}'min_snr' or 'sigmoid'",
      )
    require(
      (self.prediction, self.weighting) != ('eps', 'truncated_snr'),
      "stage.diffusion.weighting is 'truncated_snr' with "
      "stage.diffusion.prediction 'eps', whose error it enlarges without "
      "bound; accepted: 'plain', 'min_snr', 'sigmoid'",
    )
    at_least('stage.diffusion.shift_size', self.shift_size, 1)
    for name in ('edm_std', 'sigma_data', 'min_snr_gamma'):
      above_zero(f'stage.diffusion.{name}', getattr(self, name))
    for name in ('edm_mean', 'sigmoid_bias'):
      finite(f'stage.diffusion.{name}', getattr(self, name))
    # Beyond them float32 has no alpha or no sigma.
    for name in ('logsnr_min', 'logsnr_max'):
      value = getattr(self, name)
      require(
        -80 <= value <= 80,
        f'stage.diffusion.{name} is {value!r}; accepted: [-80, 80]',
      )
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
    self._check_read()

  def _check_read(self):
    """Raises ValueError where a field is set that no other lets be read."""
    edm = 'edm' in (self.prediction, self.loss)
    for names, is_read, accepted in (
      (
        ('shift_size',),
        self.schedule == 'shifted_cosine',
        "schedule 'shifted_cosine'",
      ),
      (('edm_mean', 'edm_std'), self.schedule == 'edm', "schedule 'edm'"),
      (('sigma_data',), edm, "prediction or loss 'edm'"),
      (
        ('min_snr_gamma',),
        self.weighting == 'min_snr',
        "weighting 'min_snr'",
      ),
      (('sigmoid_bias',), self.weighting == 'sigmoid', "weighting 'sigmoid'"),
    ):
      default_unless(
        self, 'stage.diffusion', names, is_read, f'stage.diffusion.{accepted}'
      )
