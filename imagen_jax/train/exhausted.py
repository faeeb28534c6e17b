"""The devices' memory: refused early where too small, and what would help."""

import contextlib
import dataclasses
import math

import jax

from imagen_jax import config as config_lib
from imagen_jax import flops
from imagen_jax import sharding
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

# What XLA says where an array, or a whole program, does not fit.
_EXHAUSTED = 'RESOURCE_EXHAUSTED'

# Letters of it that are repeated.
_TOLD = 200


def check(config: config_lib.Config, tx, mesh):
  """Refuses a state that the devices cannot hold; nothing is allocated.

  Whether there is room for a step beside it is not known before it is compiled:
  see `check_step`.

  Args:
    config: of the run.
    tx: its optimiser.
    mesh: that it is to lie on.

  Raises:
    ValueError: where parameters, averages and the optimiser's state take more
      of a device than it has.
  """
  limit = _limit(mesh)
  if limit is None:
    return
  size = _state_bytes(config, tx, mesh)
  if size > limit:
    levers = _fsdp(config, tx, mesh, size)
    raise ValueError(
      f'the state takes {_gib(size)} of a device that has {_gib(limit)}; '
      f'accepted: {"; ".join([*levers, "more or larger devices"])}'
    )


def check_step(compiled, config: config_lib.Config, tx, mesh):
  """Refuses a compiled step that the devices cannot hold; nothing is allocated.

  The compiler of a TPU has refused it itself. Others, and a step that was
  compiled elsewhere, would be refused at the first step, with data read.

  To be called with the state on the devices, which the step updates in place.

  Args:
    compiled: the step, of a compiler or a file.
    config: of the run.
    tx: its optimiser.
    mesh: that it is to run on.

  Raises:
    ValueError: where the state, the batch and all that is computed take more of
      a device than it has, or than an encoder leaves it.
  """
  limit = _limit(mesh)
  stats = None if limit is None else compiled.memory_analysis()
  if stats is None:
    return
  size = step_bytes(stats)
  # As the compiler counts the state, padded, where it tells.
  state = max(_state_bytes(config, tx, mesh), stats.alias_size_in_bytes)
  others = max(0, _taken(mesh) - state)
  if size + others > limit:
    beside = f', of which {_gib(others)} is taken' if others else ''
    raise ValueError(
      f'the step takes {_gib(size)} of a device that has {_gib(limit)}{beside}'
      f'; {advice(config, tx, mesh)}'
    )


def step_bytes(stats) -> int:
  """Bytes of a device that must be free for a compiled program.

  Args:
    stats: its `memory_analysis()`.
  """
  fresh = stats.output_size_in_bytes - stats.alias_size_in_bytes
  total = stats.argument_size_in_bytes + fresh + stats.temp_size_in_bytes
  # JAX 0.10's libtpu says 0 temporaries for a program of any size.
  peak = getattr(stats, 'peak_memory_in_bytes', 0)
  return max(total, peak) + stats.generated_code_size_in_bytes


@contextlib.contextmanager
def explained(config: config_lib.Config, tx, mesh):
  """Within it, an error of too little memory says what would buy how much.

  Raises:
    ValueError: in the place of XLA's error.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if _EXHAUSTED not in str(error):
      raise
    said = str(error)[str(error).index(_EXHAUSTED) + len(_EXHAUSTED) :]
    said = ' '.join(said.strip(': ').split())[:_TOLD]
    raise ValueError(
      f'a device has too little memory ({said}); {advice(config, tx, mesh)}'
    ) from error


def advice(config: config_lib.Config, tx, mesh) -> str:
  """What takes a device's memory, and what would buy how much, as a line.

  Activations are those that differentiation leaves the backward pass: XLA may
  keep fewer, and computes with more.
  """
  size = _state_bytes(config, tx, mesh)
  shards = sharding.num_batch_shards(mesh, config.mesh)
  rows = config.train.batch_size // shards
  parts = config.train.microbatches
  kept = _kept(config) * rows // parts
  limit = _limit(mesh)
  levers = []
  more = next((n for n in range(parts + 1, rows + 1) if rows % n == 0), None)
  if more:
    saved = kept - kept * parts // more
    levers.append(f'train.microbatches={more} about {_gib(saved)}')
  unet = dataclasses.replace(
    config.stage.unet, remat=True, remat_policy=('full',)
  )
  if unet != config.stage.unet:
    stage = dataclasses.replace(config.stage, unet=unet)
    least = _kept(dataclasses.replace(config, stage=stage)) * rows // parts
    if least < kept:
      levers.append(
        'stage.unet.remat=true stage.unet.remat_policy=["full"] about '
        f'{_gib(kept - least)}'
      )
  levers += _fsdp(config, tx, mesh, size)
  if not levers:
    levers = ['more or larger devices']
  has = f' of {_gib(limit)}' if limit else ''
  return (
    f'the state takes {_gib(size)}{has}, activations about {_gib(kept)}; what '
    f'buys how much of a device: {"; ".join(levers)}'
  )


def _limit(mesh):
  """Bytes of the smallest device of this host; None where none says."""
  found = []
  for device in mesh.local_devices:
    said = device.memory_stats() or {}
    if said.get('bytes_limit'):
      found.append(said['bytes_limit'])
  return min(found, default=None)


def _taken(mesh):
  """Bytes in use on the device of this host that has most of them in use."""
  told = [device.memory_stats() or {} for device in mesh.local_devices]
  return max(each.get('bytes_in_use', 0) for each in told)


def _state_bytes(config, tx, mesh):
  """Bytes of the state on a device."""
  shardings = state_lib.state_shardings(config, tx, mesh)
  state = state_lib.abstract_state(config, tx, shardings)
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(state)
  )


def _fsdp(config, tx, mesh, size):
  """What the state's shards would shrink by, were there twice as many."""
  fsdp = 2 * mesh.shape['fsdp']
  wanted = dataclasses.replace(
    config.mesh, data=-1, fsdp=fsdp, model=mesh.shape['model']
  )
  if mesh.shape['data'] % 2:
    return []
  other = sharding.make_mesh(wanted, list(mesh.devices.flat))
  saved = size - _state_bytes(config, tx, other)
  return [f'mesh.fsdp={fsdp} about {_gib(saved)}'] if saved > 0 else []


def _kept(config):
  """Bytes that an image leaves the backward pass."""
  keys = step_lib.step_keys(0, 0)
  params = sharding.unbox(state_lib.abstract_params(config))

  def loss(params, batch):
    return step_lib.loss_fn(params, batch, keys, config)[0]

  # The difference leaves out what is once a batch: kernels in bfloat16.
  one, two = (
    flops.kept_bytes(loss, params, state_lib.abstract_batch(config, size))
    for size in (1, 2)
  )
  return two - one


def _gib(size):
  return f'{size / 2**30:,.3g} GiB'
