"""How a stage is trained: optimiser, mesh, length and rhythm."""

import dataclasses
import math

from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import one_of
from imagen_jax.config.checks import require


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
    for name in ('b1', 'b2'):
      value = getattr(self, name)
      require(0 <= value < 1, f'optimizer.{name} is {value}; accepted: [0, 1)')
    require(0 < self.eps < 1, f'optimizer.eps is {self.eps}; accepted: (0, 1)')
    require(
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
    log_every: steps between lines of metrics.
    checkpoint_every: steps between checkpoints.
    keep_checkpoints: how many are kept.
    sample_every: steps between sample grids; 0 makes none.
    num_samples: held-out captions that a sample grid shows.
    stall_factor: a step that takes so many times the median of a step, and five
      minutes, has the stacks of its host's threads written; 0 never does.
  """

  batch_size: int = 2048
  microbatches: int = 1
  num_steps: int = 2_500_000
  seed: int = 0
  ema_decay: float = 0.9999
  log_every: int = 100
  checkpoint_every: int = 5000
  keep_checkpoints: int = 3
  sample_every: int = 5000
  num_samples: int = 16
  stall_factor: float = 20.0

  def __post_init__(self):
    for name in (
      'batch_size',
      'microbatches',
      'num_steps',
      'log_every',
      'checkpoint_every',
      'keep_checkpoints',
      'num_samples',
    ):
      at_least(f'train.{name}', getattr(self, name), 1)
    at_least('train.sample_every', self.sample_every, 0)
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
    require(
      0 <= self.ema_decay < 1,
      f'train.ema_decay is {self.ema_decay!r}; accepted: [0, 1)',
    )
