"""How a stage is trained: optimiser, mesh, length and rhythm."""

import dataclasses
import math

from imagen_jax.config.checks import above_zero
from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import finite
from imagen_jax.config.checks import one_of
from imagen_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class ParameterRule:
  """How some parameters are trained otherwise than the rest.

  Attributes:
    path: of the parameters, as exports name them ('down0_res0/conv_in/kernel'),
      with * for any letters, / included, ? for one, [...] for one of some.
    learning_rate: what theirs is multiplied by.
    weight_decay: of all of them, kernels or not, in the place of the
      optimiser's; None leaves that.
    freeze: they stay as they are, have no moments, and do not count where
      gradients are clipped.
  """

  path: str
  learning_rate: float = 1.0
  weight_decay: float | None = None
  freeze: bool = False

  def __post_init__(self):
    where = f'optimizer.rules[{self.path}]'
    require(self.path, f'{where}.path is empty; accepted: such as */bias')
    above_zero(f'{where}.learning_rate', self.learning_rate)
    if self.weight_decay is not None:
      at_least(f'{where}.weight_decay', self.weight_decay, 0)
      finite(f'{where}.weight_decay', self.weight_decay)
    others = self.learning_rate != 1 or self.weight_decay is not None
    require(
      self.freeze or others,
      f'{where} changes nothing; accepted: a learning_rate other than 1, a '
      'weight_decay, or freeze',
    )
    require(
      not (self.freeze and others),
      f'{where} has freeze with learning_rate {self.learning_rate} and '
      f'weight_decay {self.weight_decay}; accepted: freeze alone',
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
    momentum: decay of an average of Adafactor's updates, which it takes in
      their place; 0 keeps none, as in the paper.
    moment_dtype: of Adam's first moment, or of Adafactor's momentum.
    rules: for parameters by path; of several that fit, the first counts.
    stacked: update parameters of one shape as one stack. A step of many
      parameters is so compiled sooner; on a CPU it takes longer.
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
  momentum: float = 0.0
  moment_dtype: str = 'float32'
  rules: tuple[ParameterRule, ...] = ()
  stacked: bool = False

  def __post_init__(self):
    one_of('optimizer.name', self.name, ('adafactor', 'adam'))
    one_of('optimizer.decay', self.decay, ('constant', 'cosine'))
    for name in ('learning_rate', 'warmup_steps', 'clip_norm', 'weight_decay'):
      at_least(f'optimizer.{name}', getattr(self, name), 0)
      require(
        math.isfinite(getattr(self, name)),
        f'optimizer.{name} is {getattr(self, name)}; accepted: a finite number',
      )
    for name in ('b1', 'b2', 'momentum'):
      value = getattr(self, name)
      require(0 <= value < 1, f'optimizer.{name} is {value}; accepted: [0, 1)')
    require(0 < self.eps < 1, f'optimizer.eps is {self.eps}; accepted: (0, 1)')
    require(
      self.name == 'adam' or self.weight_decay == 0,
      f'optimizer.weight_decay is {self.weight_decay} with optimizer.name '
      f'{self.name!r}; accepted: 0, or optimizer.name adam',
    )
    require(
      self.name == 'adafactor' or self.momentum == 0,
      f'optimizer.momentum is {self.momentum} with optimizer.name '
      f"{self.name!r}; accepted: 0, as b1 is Adam's",
    )
    one_of('optimizer.moment_dtype', self.moment_dtype, ('float32', 'bfloat16'))
    require(
      self.moment_dtype == 'float32' or self.name == 'adam' or self.momentum,
      f'optimizer.moment_dtype is {self.moment_dtype!r} without a moment; '
      'accepted: float32, optimizer.name adam, or an optimizer.momentum',
    )
    paths = [rule.path for rule in self.rules]
    require(
      len(set(paths)) == len(paths),
      f'optimizer.rules has the paths {paths}; accepted: each once',
    )
    for rule in self.rules:
      require(
        self.name == 'adam' or rule.weight_decay is None,
        f'optimizer.rules[{rule.path}].weight_decay is {rule.weight_decay} '
        f'with optimizer.name {self.name!r}; accepted: none, or adam',
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
    require(
      all(size == -1 or size >= 1 for size in sizes) and sizes.count(-1) <= 1,
      f'mesh (data, fsdp, model) is {sizes}; accepted: positive sizes, at '
      'most one of them -1',
    )
    for name in ('height', 'width'):
      value = getattr(self, name)
      one_of(f'mesh.{name}', value, ('none', 'data', 'fsdp'))
    require(
      self.height == 'none' or self.height != self.width,
      f'mesh.height and mesh.width are both {self.height!r}; accepted: an axis '
      'of its own for each, or none',
    )
    at_least('mesh.simulated_devices', self.simulated_devices, 0)


# Of the length of an average; EDM2's sigma_rel of the power 0 is 12**-0.5.
LONGEST_EMA = 0.2886


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The length and rhythm of a run.

  Attributes:
    batch_size: examples a step, over all devices.
    microbatches: parts of the batch that go through the network in turn, their
      gradients added up: less memory and more time for the same step.
    num_steps: updates in all.
    seed: of parameters, noise and data order.
    ema_decay: of the averaged weights; approached as (1 + n) / (10 + n).
    ema_lengths: of further averages beside those, each a share of the run
      (EDM2's sigma_rel); of their snapshots `imagen-jax export` makes averages
      of any length.
    ema_snapshot_every: steps between snapshots of these; 0 keeps none.
    ema_snapshot_dtype: that they are stored in.
    log_every: steps between lines of metrics.
    checkpoint_every: steps between checkpoints.
    keep_checkpoints: how many are kept.
    sample_every: steps between sample grids; 0 makes none.
    num_samples: held-out captions that a sample grid shows.
    sample_lowres: exports of the stages in front of a super-resolution stage,
      the base first: its grids then show what it makes of their pictures too.
    eval_every: steps between losses on held-out examples; 0 measures none.
    num_eval_examples: held-out examples that these are over.
    eval_logsnr: noise levels that these are at.
    eval_aug_level: at which low-res inputs are corrupted for these.
    stall_factor: a step that takes so many times the median of a step, and five
      minutes, has the stacks of its host's threads written; 0 never does.
    module_norms: whether metrics have the norms of gradients, parameters and
      updates of each level of the network.
  """

  batch_size: int = 2048
  microbatches: int = 1
  num_steps: int = 2_500_000
  seed: int = 0
  ema_decay: float = 0.9999
  ema_lengths: tuple[float, ...] = ()
  ema_snapshot_every: int = 0
  ema_snapshot_dtype: str = 'float32'
  log_every: int = 100
  checkpoint_every: int = 5000
  keep_checkpoints: int = 3
  sample_every: int = 5000
  num_samples: int = 16
  sample_lowres: tuple[str, ...] = ()
  eval_every: int = 0
  num_eval_examples: int = 1024
  eval_logsnr: tuple[float, ...] = (-6.0, -3.0, 0.0, 3.0, 6.0)
  eval_aug_level: float = 0.1
  stall_factor: float = 20.0
  module_norms: bool = False

  def __post_init__(self):
    for name in (
      'batch_size',
      'microbatches',
      'num_steps',
      'log_every',
      'checkpoint_every',
      'keep_checkpoints',
      'num_samples',
      'num_eval_examples',
    ):
      at_least(f'train.{name}', getattr(self, name), 1)
    at_least('train.sample_every', self.sample_every, 0)
    at_least('train.eval_every', self.eval_every, 0)
    at_least('train.seed', self.seed, 0)
    require(
      self.stall_factor == 0 or 1 <= self.stall_factor < math.inf,
      f'train.stall_factor is {self.stall_factor}; accepted: 0, or 1 or more',
    )
    require(
      self.batch_size % self.microbatches == 0,
      f'train.microbatches is {self.microbatches} with train.batch_size '
      f'{self.batch_size}; accepted: what divides that',
    )
    levels = list(self.eval_logsnr)
    require(
      levels and sorted({*levels}) == levels,
      f'train.eval_logsnr is {levels}; accepted: one or more, ascending',
    )
    require(
      0 <= self.eval_aug_level <= 1,
      f'train.eval_aug_level is {self.eval_aug_level!r}; accepted: [0, 1]',
    )
    require(
      0 <= self.ema_decay < 1,
      f'train.ema_decay is {self.ema_decay!r}; accepted: [0, 1)',
    )
    lengths = self.ema_lengths
    require(
      all(0 < length <= LONGEST_EMA for length in lengths)
      and len(set(lengths)) == len(lengths),
      f'train.ema_lengths is {lengths}; accepted: different numbers above 0, '
      f'to {LONGEST_EMA}, which weighs all of a run alike',
    )
    at_least('train.ema_snapshot_every', self.ema_snapshot_every, 0)
    require(
      lengths or not self.ema_snapshot_every,
      f'train.ema_snapshot_every is {self.ema_snapshot_every} with '
      'train.ema_lengths empty; accepted: 0, or some lengths',
    )
    one_of(
      'train.ema_snapshot_dtype',
      self.ema_snapshot_dtype,
      ('float32', 'bfloat16'),
    )
