"""A search for how to run a config on a topology, by compiling a few ways.

What is searched is what changes no result: in how many shards the state lies
(`mesh.fsdp`), what the backward pass is left (`stage.unet.remat_policy`), and
in how many parts the batch goes (`train.microbatches`). Each compilation takes
minutes, so that the ways are put in the order of the time that they should
take, those that cannot fit by what differentiation counts are left out, and of
the rest the first that fits is taken, and tried with other meshes.
"""

from collections.abc import Callable
import dataclasses
import math
import shlex
import time

from imagen_jax import config as config_lib
from imagen_jax import flops
from imagen_jax import sharding
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

_GIB = 2**30
# The time of a step by what is rematerialised, of one that does nothing twice:
# modelled, of one level of the base on v5p (docs/performance.md); 'products'
# of single blocks.
_POLICIES = {'none': 1.0, 'products': 1.05, 'full': 1.19}
# Below so many images a convolution is rewritten for small batches, which took
# 1.8 times as long (modelled, v5p, 32x32 pixels of 1024 channels).
_ENOUGH = 8
_FEW = 1.8
# A part more sends the gradients once more, for some percent of a step.
_PART = 0.05
# XLA has kept 0.24 to 0.5 of the bytes that differentiation counts: with less
# than this share it was never seen.
_LEAST_KEPT = 0.2
# What is predicted from another way's memory may be wrong by so much.
_MARGIN = 1.15


@dataclasses.dataclass(frozen=True)
class Way:
  """One way to run a config.

  Attributes:
    fsdp: shards of the state.
    policy: of rematerialisation, for all levels.
    microbatches: parts of the batch.
    counted: bytes of activations a device that the backward pass is left, as
      differentiation counts them.
    cost: the time of a step, of the quickest way's, before any is compiled.
  """

  fsdp: int
  policy: str
  microbatches: int
  counted: int
  cost: float

  def settings(self) -> list[str]:
    """As `--set` takes them."""
    return [
      'mesh.data=-1',
      f'mesh.fsdp={self.fsdp}',
      'stage.unet.remat=true',
      f'stage.unet.remat_policy=["{self.policy}"]',
      f'train.microbatches={self.microbatches}',
    ]

  def __str__(self):
    return ' '.join(f'--set {shlex.quote(each)}' for each in self.settings())


def counted_bytes(config: config_lib.Config, policy: str) -> int:
  """Bytes that one image leaves for the backward pass, as JAX has it."""
  config = config_lib.override(
    config, ['stage.unet.remat=true', f'stage.unet.remat_policy=["{policy}"]']
  )
  keys = step_lib.step_keys(0, 0)
  loss = lambda params, batch: step_lib.loss_fn(params, batch, keys, config)[0]
  params = sharding.unbox(state_lib.abstract_params(config))
  # The difference leaves out what is once a batch: kernels in bfloat16.
  one, two = (
    flops.kept_bytes(loss, params, state_lib.abstract_batch(config, size))
    for size in (1, 2)
  )
  return two - one


def _own_fsdp(config, num_devices):
  """The shards of the state that a config asks for."""
  mesh = config.mesh
  if mesh.fsdp != -1:
    return mesh.fsdp
  return num_devices // (mesh.data * mesh.model)


def _num_batch_shards(config, fsdp, num_devices):
  sizes = {'data': num_devices // (fsdp * config.mesh.model), 'fsdp': fsdp}
  return math.prod(sizes[axis] for axis in sharding.batch_axes(config.mesh))


def ways(
  config: config_lib.Config,
  num_devices: int,
  capacity: int,
  counted: Callable[[str], int],
) -> list[Way]:
  """The ways on the config's own mesh that may fit, quickest first.

  Args:
    config: the run.
    num_devices: of the topology.
    capacity: bytes of memory of each.
    counted: policy -> bytes that one image leaves for the backward pass.

  Raises:
    ValueError: where the mesh or the batch does not fit the topology.
  """
  mesh = config.mesh
  fsdp = _own_fsdp(config, num_devices)
  if fsdp < 1 or num_devices % (fsdp * mesh.model):
    raise ValueError(
      f'mesh.fsdp is {mesh.fsdp} and mesh.model {mesh.model} on {num_devices} '
      'devices; accepted: sizes whose product divides that'
    )
  shards = _num_batch_shards(config, fsdp, num_devices)
  size = config.train.batch_size
  if size % shards:
    raise ValueError(
      f'train.batch_size is {size} on {num_devices} devices; accepted: '
      f'multiples of {shards}, among which mesh.data and mesh.fsdp share it'
    )
  images = size // shards
  found = []
  for policy, slower in _POLICIES.items():
    each = counted(policy)
    for parts in _halvings(images):
      kept = each * (images // parts)
      if _LEAST_KEPT * kept > capacity:
        continue
      few = _FEW if images // parts < min(images, _ENOUGH) else 1.0
      cost = slower * few * (1 + _PART * (parts - 1))
      found.append(Way(fsdp, policy, parts, kept, cost))
  return sorted(found, key=lambda way: way.cost)


def _halvings(images):
  """1, 2, 4 and so on, of what divides `images`."""
  parts = 1
  while images % parts == 0:
    yield parts
    parts *= 2


def other_meshes(
  way: Way, config: config_lib.Config, num_devices: int
) -> list[Way]:
  """`way` with half and twice the shards of the state, where they divide."""
  shards = _num_batch_shards(config, way.fsdp, num_devices)
  return [
    dataclasses.replace(way, fsdp=fsdp)
    for fsdp in (2 * way.fsdp, way.fsdp // 2)
    if fsdp >= 1
    and num_devices % (fsdp * config.mesh.model) == 0
    # Where an axis splits images, the other one's size is the batch's.
    and _num_batch_shards(config, fsdp, num_devices) == shards
  ]


@dataclasses.dataclass(frozen=True)
class Tried:
  """A way that was compiled, and what `report.figures` has of it."""

  way: Way
  figures: dict

  @property
  def seconds(self) -> float:
    """Modelled, of a step; infinite where it does not fit."""
    if not self.figures['fits']:
      return math.inf
    return self.figures['step_seconds']['mid']


def search(
  config: config_lib.Config,
  ladder: list[Way],
  meshes: Callable[[Way], list[Way]],
  compile_way: Callable[[config_lib.Config], dict],
  *,
  tries: int,
  say: Callable[[str], None],
) -> list[Tried]:
  """Compiles ways until one fits, then that one's other meshes.

  Args:
    config: the run.
    ladder: of `ways`.
    meshes: of a way that fits, those to try beside it.
    compile_way: config -> its `report.figures`.
    tries: most that are compiled.
    say: told before and after each.

  Returns:
    What was compiled, in that order.
  """
  tried, began = [], time.monotonic()

  def attempt(way, left):
    if tried:
      each = (time.monotonic() - began) / len(tried) / 60
      left = f'at most {left} to go, about {each * left:.0f} minutes'
    else:
      left = f'at most {left} to go'
    say(f'compiling {way} ({left})')
    figures = compile_way(config_lib.override(config, way.settings()))
    tried.append(Tried(way, figures))
    say(f'  {verdict(tried[-1])}')
    return figures['fits']

  for way in ladder:
    if len(tried) == tries:
      return tried
    if tried and not may_fit(way, tried[-1]):
      say(f'left out, too large by what was compiled: {way}')
      continue
    if attempt(way, tries - len(tried)):
      others = meshes(way)[: tries - len(tried)]
      for place, other in enumerate(others):
        attempt(other, len(others) - place)
      break
  return tried


def may_fit(way: Way, other: Tried) -> bool:
  """Whether a way may fit, by the memory of one that did not."""
  hbm = other.figures['hbm']
  if hbm['temporaries'] is None:
    return True
  share = hbm['temporaries'] / other.way.counted
  # What does not grow with the activations is among the temporaries, so that
  # of fewer of them more may be left than this.
  expected = hbm['arguments'] + share * way.counted
  return expected < _MARGIN * hbm['capacity']


def verdict(one: Tried) -> str:
  """What came of a way, in a line."""
  found = one.figures
  size = f'{found["hbm"]["total"] / _GIB:.1f} GiB'
  minutes = f'{found["compile_wall_seconds"] / 60:.1f} minutes'
  if not found['fits']:
    return f'does not fit: {size} ({minutes})'
  return (
    f'fits, {size}: {1e3 * one.seconds:.1f} ms modelled, MFU '
    f'{found["mfu"]["mid"]:.1%} ({minutes})'
  )


def best(tried: list[Tried]) -> Tried | None:
  """The quickest that fits; None where none does."""
  fitting = [one for one in tried if one.figures['fits']]
  return min(fitting, key=lambda one: one.seconds) if fitting else None


def text(tried: list[Tried]) -> str:
  """What was compiled, as a table, and the best that fits."""
  rows = [
    ['fsdp', 'remat_policy', 'microbatches', 'fits', 'HBM, GiB', 'free']
    + ['step, ms', 'MFU', 'minutes']
  ]
  for one in tried:
    found, way = one.figures, one.way
    speed = ['-', '-']
    if found['fits']:
      speed = [f'{1e3 * one.seconds:.1f}', f'{found["mfu"]["mid"]:.1%}']
    rows.append(
      [str(way.fsdp), way.policy, str(way.microbatches)]
      + ['yes' if found['fits'] else 'no']
      + [f'{found["hbm"]["total"] / _GIB:.1f}']
      + [f'{found["hbm_free_share"]:.0%}', *speed]
      + [f'{found["compile_wall_seconds"] / 60:.1f}']
    )
  widths = [max(map(len, column)) for column in zip(*rows)]
  table = '\n'.join(
    '  '.join(cell.rjust(width) for cell, width in zip(row, widths))
    for row in rows
  )
  found = best(tried)
  if found is None:
    return f'{table}\n\nnone of them fits'
  return f'{table}\n\nbest that fits, modelled: {found.way}'
