"""The schema of a run: frozen dataclasses, overrides, JSON in and out.

A config is a value. Building, comparing or printing one starts no device,
opens no dataset and imports nothing but the standard library.
"""

import dataclasses
import difflib
import fnmatch
import importlib.util
import json
import math
import pathlib
import types
import typing


def _require(condition, message):
  if not condition:
    raise ValueError(message)


def _one_of(field, value, accepted):
  _require(
    value in accepted,
    f'{field} is {value!r}; accepted: {", ".join(map(repr, accepted))}',
  )


def _above_zero(field, value):
  _require(
    0 < value < math.inf, f'{field} is {value!r}; accepted: numbers above 0'
  )


def _at_least(field, value, least):
  _require(value >= least, f'{field} is {value!r}; accepted: {least} or more')


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """Sizes of one U-Net. Tuples have one entry a level, finest first.

  Attributes:
    design: 'base' is the BigGAN-style U-Net of the 64-pixel stage; 'efficient'
      is the paper's Efficient U-Net (appendix B.1), which resamples first.
    channels: width of each level.
    num_res_blocks: residual blocks of each level, on the way down; the way up
      mirrors it.
    self_attention: which levels attend over pixels.
    text_attention: which levels attend over text tokens.
    stem_stride: stride of the first convolution; 1 in the paper. 2 keeps
      every layer off the full-resolution grid, which small nets live by.
    coordinates: give the stem each pixel's place beside its colour; not in
      the paper. A net of few layers learns too slowly from the padding where
      in the picture it is.
    text_positions: add a learned vector to each token by its place; not in
      the paper. An encoder's output says faintly where a token stands, which
      a short run does not learn to read.
    head_dim: channels of an attention head.
    attention_expansion: width of all heads joined over a level's channels.
    embed_dim: width of the time-and-text embedding.
    num_groups: groups of a GroupNorm.
    dropout: rate inside residual blocks.
    remat: rematerialise blocks (residual, attention) in the backward pass.
    remat_policy: what a level's blocks keep of themselves where `remat` is on:
      'full' rematerialises all but their inputs, 'products' all but what comes
      of convolutions and dense layers (attention's logits are not kept),
      'none' nothing. One entry a level, or one for all.
    scan: compile a level's like blocks once and loop over them, with their
      parameters stacked; the state and its checkpoints are the same. Shorter
      to compile, a little slower to run. One entry a level, or one for all.
    dtype: type of activations and matrix products; parameters are float32.
  """

  design: str = 'base'
  channels: tuple[int, ...] = (512, 1024, 1536, 2048)
  num_res_blocks: tuple[int, ...] = (3, 3, 3, 3)
  self_attention: tuple[bool, ...] = (False, True, True, True)
  text_attention: tuple[bool, ...] = (False, True, True, True)
  stem_stride: int = 1
  coordinates: bool = False
  text_positions: bool = False
  head_dim: int = 64
  attention_expansion: int = 1
  embed_dim: int = 2048
  num_groups: int = 32
  dropout: float = 0.0
  remat: bool = True
  remat_policy: tuple[str, ...] = ('full',)
  scan: tuple[bool, ...] = (False,)
  dtype: str = 'bfloat16'

  def __post_init__(self):
    _one_of('stage.unet.design', self.design, ('base', 'efficient'))
    _one_of('stage.unet.dtype', self.dtype, ('bfloat16', 'float32'))
    levels = len(self.channels)
    _at_least('number of stage.unet.channels', levels, 1)
    for name in ('head_dim', 'attention_expansion', 'embed_dim', 'num_groups'):
      _at_least(f'stage.unet.{name}', getattr(self, name), 1)
    for name in ('channels', 'num_res_blocks'):
      for level, value in enumerate(getattr(self, name)):
        _at_least(f'stage.unet.{name}[{level}]', value, 1)
    for name in ('num_res_blocks', 'self_attention', 'text_attention'):
      value = getattr(self, name)
      _require(
        len(value) == levels,
        f'stage.unet.{name} has {len(value)} entries, stage.unet.channels '
        f'has {levels}; accepted: one entry a level in both',
      )
    for name in ('remat_policy', 'scan'):
      value = getattr(self, name)
      _require(
        len(value) in (1, levels),
        f'stage.unet.{name} has {len(value)} entries, stage.unet.channels '
        f'has {levels}; accepted: one entry a level, or one for all',
      )
    for policy in self.remat_policy:
      _one_of('stage.unet.remat_policy', policy, ('none', 'full', 'products'))
    _require(
      not (any(self.scan) and self.dropout),
      f'stage.unet.scan is {self.scan} with stage.unet.dropout '
      f'{self.dropout}; accepted: scan without dropout, whose draws it changes',
    )
    _one_of('stage.unet.stem_stride', self.stem_stride, (1, 2, 4, 8))
    _require(
      0 <= self.dropout < 1,
      f'stage.unet.dropout is {self.dropout!r}; accepted: [0, 1)',
    )
    for level, width in enumerate(self.channels):
      _require(
        width % self.num_groups == 0,
        f'stage.unet.channels[{level}] is {width}; accepted: multiples of '
        f'stage.unet.num_groups ({self.num_groups})',
      )
      if self.self_attention[level] or self.text_attention[level]:
        joined = width * self.attention_expansion
        _require(
          joined % self.head_dim == 0,
          f'stage.unet.channels[{level}] x attention_expansion is {joined}; '
          f'accepted: multiples of stage.unet.head_dim ({self.head_dim})',
        )

  def at_level(self, name: str, level: int):
    """A level's entry of a field that may have one for all."""
    value = getattr(self, name)
    return value[level] if len(value) > 1 else value[0]

  @property
  def downsampling(self) -> int:
    """How many image pixels a side one pixel of the coarsest level covers."""
    levels = len(self.channels)
    steps = levels if self.design == 'efficient' else levels - 1
    return self.stem_stride * 2**steps


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
    _one_of(
      'stage.diffusion.schedule',
      self.schedule,
      ('cosine', 'linear', 'shifted_cosine', 'edm'),
    )
    _one_of(
      'stage.diffusion.aug_schedule', self.aug_schedule, ('cosine', 'linear')
    )
    for name in ('prediction', 'loss'):
      value = getattr(self, name)
      _one_of(f'stage.diffusion.{name}', value, ('eps', 'x', 'v', 'edm'))
    _one_of(
      'stage.diffusion.weighting',
      self.weighting,
      ('plain', 'min_snr', 'truncated_snr', 'sigmoid'),
    )
    _at_least('stage.diffusion.shift_size', self.shift_size, 1)
    for name in ('edm_std', 'sigma_data', 'min_snr_gamma'):
      _above_zero(f'stage.diffusion.{name}', getattr(self, name))
    # Where nothing of the picture is left, the noise says nothing of it.
    _require(
      not (self.zero_terminal_snr and self.prediction == 'eps'),
      "stage.diffusion.prediction is 'eps' with zero_terminal_snr; accepted: "
      "'x', 'v', 'edm'",
    )
    _require(
      self.logsnr_min < self.logsnr_max,
      f'stage.diffusion.logsnr_min is {self.logsnr_min}; accepted: less '
      f'than logsnr_max ({self.logsnr_max})',
    )
    for name in ('text_drop', 'aug_max'):
      value = getattr(self, name)
      _require(
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
    _one_of(
      'stage.sample.sampler',
      self.sampler,
      ('ancestral', 'ddim', 'dpmpp', 'dpmpp_sde', 'heun'),
    )
    _one_of('stage.sample.spacing', self.spacing, ('time', 'logsnr', 'karras'))
    _one_of(
      'stage.sample.guidance',
      self.guidance,
      ('constant', 'interval', 'oscillating'),
    )
    _one_of(
      'stage.sample.threshold',
      self.threshold,
      ('none', 'static', 'dynamic'),
    )
    for name in ('num_steps', 'resample', 'resample_jump'):
      _at_least(f'stage.sample.{name}', getattr(self, name), 1)
    for name in (
      'guidance_weight',
      'oscillate_after',
      'oscillate_weight',
      'churn',
      'churn_min',
    ):
      _at_least(f'stage.sample.{name}', getattr(self, name), 0)
    for name in ('sigma_min', 'sigma_max', 'rho', 'churn_noise', 'strength'):
      _above_zero(f'stage.sample.{name}', getattr(self, name))
    _require(
      self.sigma_min < self.sigma_max,
      f'stage.sample.sigma_min is {self.sigma_min}; accepted: less than '
      f'sigma_max ({self.sigma_max})',
    )
    _require(
      self.churn_min <= self.churn_max,
      f'stage.sample.churn_min is {self.churn_min}; accepted: at most '
      f'churn_max ({self.churn_max})',
    )
    _require(
      self.churn == 0 or self.sampler == 'heun',
      f'stage.sample.churn is {self.churn} with stage.sample.sampler '
      f'{self.sampler!r}; accepted: 0, or stage.sample.sampler heun',
    )
    _require(
      len(self.guidance_interval) == 2
      and self.guidance_interval[0] < self.guidance_interval[1],
      f'stage.sample.guidance_interval is {list(self.guidance_interval)}; '
      'accepted: the least and the greatest log-SNR, [least, greatest]',
    )
    _require(
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
      _require(
        0 <= value <= 1, f'stage.sample.{name} is {value!r}; accepted: [0, 1]'
      )
    # The 0th percentile is the least value: all of a picture would be clipped.
    _require(
      self.percentile > 0,
      f'stage.sample.percentile is {self.percentile!r}; accepted: (0, 1]',
    )


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
    _at_least('stage.image_size', self.image_size, 4)
    step = self.unet.downsampling
    _require(
      self.image_size % step == 0,
      f'stage.image_size is {self.image_size}; accepted: multiples of '
      f'{step}, by which stage.unet downsamples',
    )
    if self.lowres_size is not None:
      _require(
        0 < self.lowres_size < self.image_size
        and self.image_size % self.lowres_size == 0,
        f'stage.lowres_size is {self.lowres_size}; accepted: a proper '
        f'divisor of stage.image_size ({self.image_size}), or none',
      )


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The frozen text encoder and the store of its embeddings.

  Attributes:
    encoder: a name from the table in `imagen_jax/text/encoders.py`.
    checkpoint: where its weights lie: a T5X checkpoint or a folder with
      safetensors; 'package:NAME' looks into an installed Python package; empty
      takes the published ones that the table names.
    vocabulary: its SentencePiece model or tokenizer.json; empty looks beside
      the checkpoint, then takes the table's.
    max_length: tokens a caption is cut or padded to.
    embed_dim: width of an embedding; checked against the encoder.
    dtype: type that the encoder computes in.
    stored_dtype: what a store holds: 'bfloat16', or 'int8' with a scale for
      each token, half the size. Training reads bfloat16 either way.
    rows: captions that each device encodes at once; the same ahead of time
      and online, as a compiled encoder rounds differently for every shape.
    store: folder of precomputed embeddings, written by `imagen-jax encode`.
    online: encode while training, on the same devices, in place of reading
      `store`, which may then be empty.
  """

  encoder: str = 't5_1_1_xxl'
  checkpoint: str = ''
  vocabulary: str = ''
  max_length: int = 128
  embed_dim: int = 4096
  dtype: str = 'float32'
  stored_dtype: str = 'bfloat16'
  rows: int = 16
  store: str = ''
  online: bool = False

  def __post_init__(self):
    _at_least('text.rows', self.rows, 1)
    _one_of('text.stored_dtype', self.stored_dtype, ('bfloat16', 'int8'))
    _at_least('text.max_length', self.max_length, 1)
    _at_least('text.embed_dim', self.embed_dim, 1)
    _one_of('text.dtype', self.dtype, ('bfloat16', 'float32'))


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """One source of text-image pairs; becomes a seqio Task.

  Attributes:
    name: the Task's name.
    path: folder of a TFDS dataset in ArrayRecord form, as `imagen-jax data
      build` writes it.
    rate: share of the mixture, relative to the other tasks.
    split: split to train on.
  """

  name: str
  path: str
  rate: float = 1.0
  split: str = 'train'

  def __post_init__(self):
    _require(
      self.rate > 0,
      f'data.tasks[{self.name}].rate is {self.rate!r}; accepted: above 0',
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The mixture that a stage trains on.

  Attributes:
    tasks: the mixture's parts.
    crop: 'center' or 'random': which square of a picture is kept.
    max_bad_share: largest share of records that may be skipped as unreadable
      before the run stops.
    prefetch: batches prepared ahead.
  """

  tasks: tuple[TaskConfig, ...] = ()
  crop: str = 'center'
  max_bad_share: float = 0.01
  prefetch: int = 2

  def __post_init__(self):
    _one_of('data.crop', self.crop, ('center', 'random'))
    _at_least('data.prefetch', self.prefetch, 1)
    _require(
      0 <= self.max_bad_share <= 1,
      f'data.max_bad_share is {self.max_bad_share!r}; accepted: [0, 1]',
    )
    names = [task.name for task in self.tasks]
    _require(
      len(set(names)) == len(names),
      f'data.tasks are named {names}; accepted: a name of its own for each',
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The optimiser: paper, appendix F; defaults of the base stage.

  Attributes:
    name: 'adafactor' (base) or 'adam' (super-resolution).
    learning_rate: peak. Adafactor's is relative to a parameter's size.
    warmup_steps: linear rise from 0.
    decay: 'constant', or 'cosine' to 0 at train.num_steps.
    clip_norm: largest global norm of a gradient; 0 turns clipping off.
    b1: Adam's decay of the first moment.
    b2: Adam's decay of the second moment.
    eps: Adam's epsilon.
    weight_decay: decoupled weight decay of kernels; Adam only.
  """

  name: str = 'adafactor'
  learning_rate: float = 1e-4
  warmup_steps: int = 10_000
  decay: str = 'constant'
  clip_norm: float = 1.0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0

  def __post_init__(self):
    _one_of('optimizer.name', self.name, ('adafactor', 'adam'))
    _one_of('optimizer.decay', self.decay, ('constant', 'cosine'))
    for name in ('learning_rate', 'warmup_steps', 'clip_norm', 'weight_decay'):
      _at_least(f'optimizer.{name}', getattr(self, name), 0)
      _require(
        math.isfinite(getattr(self, name)),
        f'optimizer.{name} is {getattr(self, name)}; accepted: a finite number',
      )
    for name in ('b1', 'b2'):
      value = getattr(self, name)
      _require(0 <= value < 1, f'optimizer.{name} is {value}; accepted: [0, 1)')
    _require(0 < self.eps < 1, f'optimizer.eps is {self.eps}; accepted: (0, 1)')
    _require(
      self.name == 'adam' or self.weight_decay == 0,
      f'optimizer.weight_decay is {self.weight_decay} with optimizer.name '
      f'{self.name!r}; accepted: 0, or optimizer.name adam',
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; one of them may be -1, 'what is left'.

  Attributes:
    data: copies of the model, each with a share of the batch.
    fsdp: shards of parameters and optimiser state; also splits the batch.
    model: shards of channels.
    height: the mesh axis that splits activations by rows of the image: 'data'
      or 'fsdp', which then does not split the batch; 'none' for no axis. For
      pictures so large that one is too much for a device.
    width: the same, by columns.
    simulated_devices: CPU devices to simulate in each process, for rehearsing
      a pod on one machine; 0 takes the devices that are there.
  """

  data: int = -1
  fsdp: int = 1
  model: int = 1
  height: str = 'none'
  width: str = 'none'
  simulated_devices: int = 0

  def __post_init__(self):
    sizes = (self.data, self.fsdp, self.model)
    _require(
      all(size == -1 or size >= 1 for size in sizes) and sizes.count(-1) <= 1,
      f'mesh (data, fsdp, model) is {sizes}; accepted: positive sizes, at '
      'most one of them -1',
    )
    for name in ('height', 'width'):
      value = getattr(self, name)
      _one_of(f'mesh.{name}', value, ('none', 'data', 'fsdp'))
    _require(
      self.height == 'none' or self.height != self.width,
      f'mesh.height and mesh.width are both {self.height!r}; accepted: an axis '
      'of its own for each, or none',
    )
    _at_least('mesh.simulated_devices', self.simulated_devices, 0)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The length and rhythm of a run.

  Attributes:
    batch_size: examples a step, over all devices.
    num_steps: updates in all.
    seed: of parameters, noise and data order.
    ema_decay: of the averaged weights; approached as (1 + n) / (10 + n).
    log_every: steps between lines of metrics.
    checkpoint_every: steps between checkpoints.
    keep_checkpoints: how many are kept.
    sample_every: steps between sample grids; 0 makes none.
    num_samples: held-out captions that a sample grid shows.
  """

  batch_size: int = 2048
  num_steps: int = 2_500_000
  seed: int = 0
  ema_decay: float = 0.9999
  log_every: int = 100
  checkpoint_every: int = 5000
  keep_checkpoints: int = 3
  sample_every: int = 5000
  num_samples: int = 16

  def __post_init__(self):
    for name in (
      'batch_size',
      'num_steps',
      'log_every',
      'checkpoint_every',
      'keep_checkpoints',
      'num_samples',
    ):
      _at_least(f'train.{name}', getattr(self, name), 1)
    _at_least('train.sample_every', self.sample_every, 0)
    _at_least('train.seed', self.seed, 0)
    _require(
      0 <= self.ema_decay < 1,
      f'train.ema_decay is {self.ema_decay!r}; accepted: [0, 1)',
    )


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that a run is a function of, besides its data."""

  stage: StageConfig = StageConfig()
  text: TextConfig = TextConfig()
  data: DataConfig = DataConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  mesh: MeshConfig = MeshConfig()
  train: TrainConfig = TrainConfig()


# Fields, as patterns, that change how a run is watched, where it runs or where
# its data lies, not what it computes: a resumed run may set them anew.
RUNTIME_FIELDS = (
  'mesh.*',
  'stage.unet.remat',
  'stage.unet.remat_policy',
  'stage.unet.scan',
  'text.store',
  'text.online',
  'text.checkpoint',
  'text.vocabulary',
  'data.prefetch',
  'data.tasks.*.path',
  'train.log_every',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'train.sample_every',
  'train.num_samples',
)


def load(spec: str) -> Config:
  """Returns the config of `PATH.py` or `PATH.py:ROW`.

  Raises:
    ValueError: where there is no such file, or no such row in it.
  """
  path, _, row = spec.partition(':')
  if not path.endswith('.py') or not pathlib.Path(path).is_file():
    raise ValueError(
      f'--config is {spec!r}; accepted: a file such as configs/base64.py, '
      'with :ROW behind it for one of its rows'
    )
  module_spec = importlib.util.spec_from_file_location('_config', path)
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not callable(getattr(module, 'get_config', None)):
    raise ValueError(
      f'--config {path} has no get_config; accepted: a file that defines '
      'get_config(), as those of configs/ do'
    )
  rows = getattr(module, 'ROWS', ())
  if row and row not in rows:
    raise ValueError(
      f'{path} has no row {row!r}; accepted: {", ".join(rows) or "none"}'
    )
  found = module.get_config(row) if row else module.get_config()
  if not isinstance(found, Config):
    raise ValueError(
      f'get_config of {path} returned a {type(found).__name__}; accepted: an '
      'imagen_jax.config.Config'
    )
  return found


def override(config: Config, assignments: typing.Iterable[str]) -> Config:
  """Returns `config` with each `a.b=value` of `assignments` applied.

  Values are JSON, or bare strings; 'none' is None; a tuple is a JSON list. A
  task of the mixture is named: `data.tasks.openmoji.rate=2`. All are applied
  before the result is checked, so that the order does not matter.

  Raises:
    ValueError: for an unknown field, naming the nearest one, or a value of
      the wrong type.
  """
  tree = {}
  for assignment in assignments:
    path, equals, text = assignment.partition('=')
    if not equals:
      raise ValueError(f'--set {assignment!r} has no "="; accepted: a.b=value')
    node = tree
    *parents, leaf = path.strip().split('.')
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f'--set {path} also sets a part of itself')
    node[leaf] = text
  return _apply(config, tree, '')


def _apply(node, tree, prefix):
  """Returns dataclass `node` with the nested strings of `tree` applied."""
  hints = typing.get_type_hints(type(node))
  changes = {}
  for name, value in tree.items():
    path = prefix + name
    if name not in hints:
      raise ValueError(
        f'--set {path}: no such field; {_suggest(name, hints, prefix)}'
      )
    current = getattr(node, name)
    if not isinstance(value, dict):
      if dataclasses.is_dataclass(current):
        inside = ', '.join(f.name for f in dataclasses.fields(current))
        raise ValueError(f'--set {path} is a group; accepted: one of {inside}')
      changes[name] = _parse(path, value, hints[name])
    elif dataclasses.is_dataclass(current):
      changes[name] = _apply(current, value, path + '.')
    elif name == 'tasks':
      changes[name] = _apply_tasks(current, value, path + '.')
    else:
      raise ValueError(f'--set {path} has no fields of its own')
  return dataclasses.replace(node, **changes)


def _apply_tasks(tasks, tree, prefix):
  by_name = {task.name: task for task in tasks}
  for name, value in tree.items():
    if name not in by_name:
      raise ValueError(
        f'--set {prefix}{name}: no such task; {_suggest(name, by_name, prefix)}'
      )
    if not isinstance(value, dict):
      raise ValueError(f'--set {prefix}{name} is a group; name its field')
    by_name[name] = _apply(by_name[name], value, f'{prefix}{name}.')
  return tuple(by_name.values())


def _suggest(name, accepted, prefix):
  near = difflib.get_close_matches(name, accepted, n=1, cutoff=0.5)
  if near:
    return f'did you mean {prefix}{near[0]}?'
  return f'accepted: {", ".join(prefix + a for a in accepted)}'


def _parse(path, text, hint):
  """Returns `text` as a value of type `hint`."""
  try:
    value = json.loads(text)
  except json.JSONDecodeError:
    value = None if text.lower() == 'none' else text
    if text in ('True', 'False'):
      value = text == 'True'
  if hint is str:
    return text
  try:
    return _convert(value, hint)
  except (TypeError, ValueError):
    shown = getattr(hint, '__name__', None)
    shown = shown if hint in (int, float, bool) else str(hint)
    raise ValueError(f'--set {path}={text}: accepted: {shown}') from None


def _convert(value, hint):
  """Returns a JSON value as one of type `hint`; raises TypeError if none."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in args:
      return None
    (hint,) = [arg for arg in args if arg is not type(None)]
    return _convert(value, hint)
  if origin is tuple:
    if not isinstance(value, (list, tuple)):
      raise TypeError
    return tuple(_convert(item, args[0]) for item in value)
  if dataclasses.is_dataclass(hint):
    return _from_dict(hint, value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or (
    hint is not bool and isinstance(value, bool)
  ):
    raise TypeError
  return value


def _from_dict(cls, tree):
  hints = typing.get_type_hints(cls)
  if not isinstance(tree, dict):
    raise TypeError(f'{tree!r} in place of its fields')
  unknown = set(tree) - set(hints)
  if unknown:
    raise ValueError(f'{cls.__name__} has no fields {sorted(unknown)}')
  values = {}
  for name, value in tree.items():
    try:
      values[name] = _convert(value, hints[name])
    except TypeError as error:
      raise TypeError(
        f'{name} is {value!r}' if not str(error) else f'{name}: {error}'
      ) from None
  return cls(**values)


def to_json(config) -> str:
  """Returns `config` (any dataclass of this file) as JSON."""
  return json.dumps(dataclasses.asdict(config), indent=2) + '\n'


def from_json(text: str, cls=Config):
  """Returns the config that `to_json` wrote.

  Raises:
    ValueError: where the text is not of this schema.
  """
  try:
    return _from_dict(cls, json.loads(text))
  except TypeError as error:
    raise ValueError(f'not a {cls.__name__}: {error}') from error


def differences(old: Config, new: Config) -> list[str]:
  """Returns 'field: old -> new' for every field that changes the results.

  A field of a task goes by the task's name, as in `override`.
  """

  def flatten(node, prefix=''):
    if isinstance(node, dict):
      for name, value in node.items():
        yield from flatten(value, f'{prefix}.{name}' if prefix else name)
    elif prefix == 'data.tasks':
      # Their order matters too: it decides which examples meet in a batch.
      yield prefix, [task['name'] for task in node]
      yield from flatten({task['name']: task for task in node}, prefix)
    else:
      yield prefix, node

  was = dict(flatten(dataclasses.asdict(old)))
  now = dict(flatten(dataclasses.asdict(new)))
  return [
    f'{path}: {was.get(path)!r} -> {now.get(path)!r}'
    for path in sorted({**was, **now})
    if was.get(path) != now.get(path)
    and not any(fnmatch.fnmatchcase(path, field) for field in RUNTIME_FIELDS)
  ]
