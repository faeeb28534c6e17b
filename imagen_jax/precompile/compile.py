"""A config's training step, compiled for a topology by the TPU's compiler."""

import dataclasses
import math
import re
import time

import jax

from imagen_jax import config as config_lib
from imagen_jax import flops
from imagen_jax import sharding
from imagen_jax.precompile import topology as topology_lib
from imagen_jax.train import executable
from imagen_jax.train import exhausted
from imagen_jax.train import mfu
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# As compilers word it: 'Used 20.63G of 15.48G hbm', or 'the total memory
# required for HLO temporaries (28.00G) exceeds available HBM (15.75G)', which
# has the arguments in it nevertheless.
_SIZE = r'([\d.]+)([KMGT]?)'
_TOO_LARGE = (
  re.compile(rf'Used {_SIZE} of {_SIZE} hbm'),
  re.compile(
    rf'required for [^()]*\({_SIZE}\) exceeds available HBM \({_SIZE}\)'
  ),
)


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of HBM that a step takes on each device.

  Attributes:
    arguments: state and batch; the state is updated in place.
    temporaries: all else; None where the compiler did not say.
    peak: most at any time, arguments among them; None where it did not say.
    code: of the program itself; None where the compiler did not say.
    total: that must be free.
    capacity: that there is.
    largest: what the backward pass is left, as (bytes, what it comes of,
      shape), where it does not fit: as differentiation has it, before XLA.
  """

  arguments: int
  temporaries: int | None
  peak: int | None
  code: int | None
  total: int
  capacity: int
  largest: tuple[tuple[int, str, str], ...] = ()

  @property
  def fits(self) -> bool:
    """Whether there is room for it."""
    return self.total <= self.capacity


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler made of a step.

  Attributes:
    hlo: the scheduled program; None where it does not fit.
    memory: that it takes.
    mesh: sizes by axis.
    flops: operations of a step's products on each device, none done twice.
    whole: (path, bytes) of the state's leaves that every device holds whole.
    wall_seconds: from the config to the program.
    cpu_seconds: the same, of all threads of this process.
  """

  hlo: str | None
  memory: Memory
  mesh: dict[str, int]
  flops: float
  whole: list[tuple[str, int]]
  wall_seconds: float
  cpu_seconds: float


def compile_step(
  config: config_lib.Config,
  topology: topology_lib.Topology,
  save: str | None = None,
) -> Compiled:
  """Compiles the training step of a config for a topology.

  It is the step that `imagen-jax train` runs, with the state and the batch in
  the shardings that it gives them. To be called after `topology.prepare`.

  Args:
    config: the run.
    topology: what it is to run on.
    save: a file, for the compiled step of what fits; None writes none.

  Raises:
    ValueError: where the config's mesh or batch does not fit the topology.
  """
  begin = time.perf_counter(), time.process_time()
  devices = topology_lib.devices(topology)
  mesh = sharding.make_mesh(config.mesh, devices)
  shards = sharding.num_batch_shards(mesh, config.mesh)
  size = config.train.batch_size
  if size % shards:
    raise ValueError(
      f'train.batch_size is {size} on {topology}; accepted: multiples of '
      f'{shards}, among which mesh.data and mesh.fsdp share it'
    )
  tx = optimizer.make_optimizer(config)
  # Not within the mesh: what Optax computes here has no device to do it.
  shardings = state_lib.state_shardings(config, tx, mesh)
  state = state_lib.abstract_state(config, tx, shardings)
  facts = {
    'mesh': dict(mesh.shape),
    'flops': mfu.model_flops(config) * size / len(devices),
    'whole': sharding.whole_copies(state, mesh),
  }
  given = state, step_lib.abstract_batch(config, mesh)
  capacity = topology.chip.hbm_bytes
  with sharding.use_mesh(mesh, config.mesh):
    lowered = step_lib.lower_step(config, tx, state, mesh)
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      program, memory = None, refused(str(error), given, capacity)
      if memory is None:
        raise
    else:
      program, memory = compiled.as_text(), used(compiled, capacity)
      if save:
        made_of = executable.fingerprint(config, lowered, mesh)
        executable.save(save, compiled, made_of)
  if not memory.fits:
    # Outside the mesh: of one device alone.
    largest = largest_kept(config, size // shards // config.train.microbatches)
    memory = dataclasses.replace(memory, largest=largest)
  wall, cpu = time.perf_counter(), time.process_time()
  return Compiled(
    hlo=program,
    memory=memory,
    wall_seconds=wall - begin[0],
    cpu_seconds=cpu - begin[1],
    **facts,
  )


def used(compiled, capacity: int) -> Memory:
  """What a compiled program that fits takes."""
  stats = compiled.memory_analysis()
  arguments = stats.argument_size_in_bytes
  code = stats.generated_code_size_in_bytes
  # JAX 0.10's libtpu says 0 for a program of any size.
  temporaries = stats.temp_size_in_bytes or None
  peak = getattr(stats, 'peak_memory_in_bytes', 0) or None
  total = exhausted.step_bytes(stats)
  return Memory(arguments, temporaries, peak, code, total, capacity)


def refused(message: str, arguments, capacity: int) -> Memory | None:
  """What a program takes that the compiler finds too large.

  Args:
    message: the compiler's.
    arguments: of the program, abstract, with shardings.
    capacity: of the chip.

  Returns:
    None where the message is about something else.
  """
  found = [wording.search(message) for wording in _TOO_LARGE]
  found = next((each for each in found if each), None)
  if not found:
    return None
  total, limit = _bytes(*found.groups()[:2]), _bytes(*found.groups()[2:])
  given = sum(
    x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(arguments)
  )
  return Memory(
    arguments=given,
    temporaries=max(total - given, 0),
    peak=None,
    code=None,
    total=total,
    capacity=min(limit, capacity),
  )


def largest_kept(
  config: config_lib.Config, size: int, count: int = 10
) -> tuple[tuple[int, str, str], ...]:
  """The largest activations that `size` images leave for the backward pass.

  The compiler does not tell what takes the memory of a program that it
  refuses.

  Args:
    config: the run.
    size: images of one device.
    count: how many are told.

  Returns:
    (bytes, what it comes of, shape) of each.
  """
  keys = step_lib.step_keys(0, 0)
  loss = lambda params, batch: step_lib.loss_fn(params, batch, keys, config)[0]
  params = sharding.unbox(state_lib.abstract_params(config))
  return tuple(
    flops.kept(loss, params, state_lib.abstract_batch(config, size))[:count]
  )


def _bytes(amount, unit):
  return round(float(amount) * _UNITS[unit])
