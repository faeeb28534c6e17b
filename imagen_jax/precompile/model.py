"""A modelled step time, of the compiler's own estimates.

Cycles are the estimates of the TPU's compiler, which are plausible for matrix
units and two to five times what the memory's bandwidth would allow for all
else; whether that is pessimism or truth was never compared with hardware.
Hence a range: `pess` takes the estimates, `opt` lets all but the matrix units
run as fast as their bytes pass through the memory, and `mid` is the geometric
mean of the two. That is a convention: differences under 5% are noise.
"""

import collections
import dataclasses
import math
import re

from imagen_jax.precompile import collectives as collectives_lib
from imagen_jax.precompile import hlo
from imagen_jax.precompile import schedule
from imagen_jax.precompile import topology as topology_lib
from imagen_jax.precompile import work


@dataclasses.dataclass(frozen=True)
class Traffic:
  """What a device sends in a step by one kind of collective.

  Attributes:
    wire_bytes: in all.
    asynchronous_bytes: of those, what goes on beside other work.
    count: of transfers.
  """

  wire_bytes: float
  asynchronous_bytes: float
  count: int


@dataclasses.dataclass(frozen=True)
class StepTime:
  """Modelled seconds of a step on each device.

  Attributes:
    pess: computing by category, as the compiler estimates it.
    opt: the same, with all but the matrix units at the memory's bandwidth.
    traffic: what is sent, by kind.
    unestimated: seconds, within both, of what the compiler gave no estimate
      for, at the memory's bandwidth.
    sending: seconds that all of `traffic` takes.
    blocking: of those, while nothing else is done.
  """

  pess: dict[str, float]
  opt: dict[str, float]
  traffic: dict[str, Traffic]
  unestimated: float
  sending: float
  blocking: float

  @property
  def computing(self) -> tuple[float, float, float]:
    """Without collectives: (opt, mid, pess)."""
    low, high = sum(self.opt.values()), sum(self.pess.values())
    return low, math.sqrt(low * high), high

  @property
  def scheduled(self) -> tuple[float, float, float]:
    """Collectives as scheduled, asynchronous ones hidden: (opt, mid, pess)."""
    low, _, high = (each + self.blocking for each in self.computing)
    return low, math.sqrt(low * high), high

  @property
  def exposed(self) -> float:
    """`mid`, were all collectives to block."""
    low, _, high = (each + self.sending for each in self.computing)
    return math.sqrt(low * high)

  @property
  def overlapped(self) -> float:
    """`mid`, were all collectives to go on beside the computing."""
    low, _, high = (max(each, self.sending) for each in self.computing)
    return math.sqrt(low * high)


def step_time(
  module: hlo.Module, topology: topology_lib.Topology, num_devices: int
) -> StepTime:
  """Models a program on a chip.

  Args:
    module: of the program, scheduled.
    topology: that it was compiled for.
    num_devices: of that topology.

  Raises:
    ValueError: where the program has a kernel without an estimate, or is not
      understood.
  """
  chip = topology.chip
  runs = schedule.executed(module)
  pess, opt = collections.Counter(), collections.Counter()
  unestimated = 0.0
  for run in runs:
    each = run.instruction
    seconds = (each.cycles or 0) / chip.clock * run.times
    if each.cycles is None:
      work.check_kernel(each)
      if work.takes_no_time(module, each):
        continue
      seconds = work.moved_bytes(module, run) / chip.hbm_bandwidth * run.times
      unestimated += seconds
    kind = work.category(module, each)
    pess[kind] += seconds
    if kind != 'matrix units':
      moved = work.moved_bytes(module, run) / chip.hbm_bandwidth * run.times
      seconds = min(seconds, moved)
    opt[kind] += seconds
  sent = collectives_lib.transfers(module, runs, num_devices)
  per_slice = num_devices // topology.slices
  sending = blocking = 0.0
  for each in sent:
    # A group larger than a slice is as slow as the network between slices.
    across = each.across or each.group > per_slice
    speed = chip.dcn_bandwidth if across else chip.ici_bandwidth
    seconds = each.wire_bytes * each.times / speed
    sending += seconds
    blocking += 0 if each.asynchronous else seconds
  return StepTime(
    pess=_ordered(pess),
    opt=_ordered(opt),
    traffic=_traffic(sent),
    unestimated=unestimated,
    sending=sending,
    blocking=blocking,
  )


def _ordered(seconds):
  return {kind: seconds.get(kind, 0.0) for kind in work.CATEGORIES[:-1]}


def _traffic(transfers):
  found = {}
  for kind in collectives_lib.KINDS:
    mine = [each for each in transfers if each.kind == kind]
    if mine:
      found[kind] = Traffic(
        wire_bytes=sum(each.wire_bytes * each.times for each in mine),
        asynchronous_bytes=sum(
          each.wire_bytes * each.times for each in mine if each.asynchronous
        ),
        count=sum(each.times for each in mine),
      )
  return found


def dearest(
  module: hlo.Module, topology: topology_lib.Topology, count: int
) -> list[tuple[str, str, float]]:
  """Parts of the model that take longest: (part, category, seconds), `pess`."""
  total = collections.Counter()
  for run in schedule.executed(module):
    if run.instruction.cycles:
      source = run.instruction.attribute(r'op_name="((?:\\.|[^"\\])*)"') or '-'
      part = re.sub(r'^jit\(train_step\)/|sharding_constraint$', '', source)
      seconds = run.times * run.instruction.cycles / topology.chip.clock
      total[part, work.category(module, run.instruction)] += seconds
  return [(*key, seconds) for key, seconds in total.most_common(count)]


def images_per_second(batch_size: int, seconds: float, num_devices: int):
  """Images a second on each device."""
  return batch_size / seconds / num_devices
