"""TPU topologies by name, and their devices without a TPU.

PyPI's `libtpu` describes and compiles for any of its topologies on a machine
that has no TPU and no network. It takes a lock of the machine: one process at
a time.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from imagen_jax import chips


@dataclasses.dataclass(frozen=True)
class Topology:
  """A kind of chip, the torus that they make, and how many of those.

  Attributes:
    kind: of `chips.CHIPS`.
    shape: chips along each axis of the torus.
    slices: tori, joined by the data centre's network.
  """

  kind: str
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def chip(self) -> chips.Chip:
    """What one device can do."""
    return chips.CHIPS[self.kind]

  @property
  def name(self) -> str:
    """As `parse` reads it and libtpu knows it."""
    return f'{self.kind}:{"x".join(map(str, self.shape))}'

  def __str__(self):
    return several(self.name, self.slices)


def several(name: str, slices: int) -> str:
  """A topology's name for people, with how many slices of it there are."""
  return f'{name} x {slices} slices' if slices > 1 else name


def parse(name: str, slices: int = 1) -> Topology:
  """The topology of a name such as 'v5p:4x4x8'.

  Raises:
    ValueError: where there is no such chip, or it makes no such torus.
  """
  kind, colon, sizes = name.partition(':')
  if kind not in chips.CHIPS:
    near = difflib.get_close_matches(kind, chips.CHIPS, n=1, cutoff=0.5)
    hint = f'; did you mean {near[0]}?' if near else ''
    raise ValueError(
      f'--topology is {name!r}{hint}; accepted: KIND:SIZES with a kind of '
      + ', '.join(chips.CHIPS)
    )
  dimensions = chips.CHIPS[kind].dimensions
  example = 'x'.join(['4'] * dimensions)
  if not (
    colon
    and re.fullmatch(r'\d+(x\d+)*', sizes)
    and len(sizes.split('x')) == dimensions
    and math.prod(map(int, sizes.split('x'))) > 0
  ):
    raise ValueError(
      f'--topology is {name!r}; accepted: {dimensions} sizes for {kind}, such '
      f'as {kind}:{example}'
    )
  if slices < 1:
    raise ValueError(f'--slices is {slices}; accepted: 1 and more')
  return Topology(kind, tuple(map(int, sizes.split('x'))), slices)


def prepare():
  """Readies this process to compile for TPUs; to be called before JAX starts.

  Raises:
    ValueError: where libtpu is not installed.
    RuntimeError: where JAX has started with another platform.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
      'libtpu is not installed, which holds the TPU compiler; accepted: an '
      "environment with it (pip install 'imagen-jax[tpu]')"
    )
  # Without these libtpu asks the metadata server of a cloud it is not in.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  # Nothing is computed; a TPU of this machine may be busy training.
  jax.config.update('jax_platforms', 'cpu')
  if jax.default_backend() != 'cpu':
    raise RuntimeError(
      f'JAX has started on {jax.default_backend()!r}; precompile needs it on '
      'the CPU, from the start of the process'
    )


def devices(topology: Topology) -> list:
  """The devices of a topology, to make a mesh of.

  Raises:
    ValueError: where libtpu does not know the topology, or another process
      holds its lock.
  """
  options = {}
  if topology.chip.config_name:
    options['chip_config_name'] = topology.chip.config_name
  if topology.slices > 1:
    options['num_slices'] = topology.slices
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=topology.name, **options
    )
  except (jax.errors.JaxRuntimeError, RuntimeError) as error:
    reason = ' '.join(str(error).split())
    if 'lockfile' in reason:
      raise ValueError(
        'libtpu is in use by another process of this machine; accepted: one '
        f'at a time (it says: {reason})'
      ) from error
    raise ValueError(
      f'--topology is {topology.name!r}, which libtpu refuses: {reason}; '
      'accepted: a shape that is sold'
    ) from error
  return list(found.devices)
