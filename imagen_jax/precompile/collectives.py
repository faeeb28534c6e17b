"""What a program sends between devices: bytes of each transfer, and when.

A collective is asynchronous where the compiler starts it in one instruction
and finishes it in another; what lies between may carry it on, in a loop too,
and is not another transfer.
"""

import dataclasses
import math
import re

from imagen_jax.precompile import hlo
from imagen_jax.precompile import schedule

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
# Each as one opcode, or begun by one and ended by another.
OPCODES = frozenset(
  kind + suffix for kind in KINDS for suffix in ('', '-start', '-done')
)
# What is gone into: `schedule.executed` knows all but fusions, and what begins
# is counted where it does.
_CALLERS = ('while', 'conditional', 'call', 'fusion', *schedule.BESIDE)
_LATER = ('-update', '-done')
_CHANNEL = r'\bchannel_id=(\d+)'
_TARGET = r'custom_call_target="([^"]*)"'
# Between slices the host's runtime does the work: what is its share of a
# collective is handed to it by a send, and comes back by a receive.
_BETWEEN_SLICES = r'_xla_megascale_transfer_type="([^"]*)"'
_RUNTIME_KINDS = {
  'ALL_GATHER': 'all-gather',
  'ALL_REDUCE': 'all-reduce',
  'ALL_TO_ALL': 'all-to-all',
  'ONE_TO_ONE': 'collective-permute',
  'REDUCE_SCATTER': 'reduce-scatter',
}


@dataclasses.dataclass(frozen=True)
class Transfer:
  """A collective as it is executed.

  Attributes:
    kind: of `KINDS`.
    wire_bytes: that a device sends, by the best algorithm on a ring.
    group: devices that take part in one.
    times: how often in a step.
    asynchronous: whether other work goes on meanwhile.
    source: what of the model it is for, as JAX names it.
    across: whether it goes over the network between slices, and no other way.
  """

  kind: str
  wire_bytes: float
  group: int
  times: int
  asynchronous: bool
  source: str
  across: bool = False


def transfers(
  module: hlo.Module, runs: list[schedule.Run], num_devices: int
) -> list[Transfer]:
  """Every transfer of what is executed, once.

  Args:
    module: of the program.
    runs: of `schedule.executed`.
    num_devices: that the program is for.

  Raises:
    ValueError: where it is not clear between how many devices one is, what
      the host is handed, or how often one is executed.
  """
  _refuse_others(module)
  started = {
    channel
    for computation in module.computations.values()
    if _target(computation, 'AsyncCollectiveStart')
    for channel in _channels(computation)
  }
  found = []
  for run in runs:
    each, wrapped = run.instruction, run.asynchronous
    if each.opcode.removesuffix('-start') in KINDS:
      begins = each.opcode.endswith('-start')
      found.append(_transfer(each, each, run, begins or wrapped, num_devices))
    elif each.opcode == 'send':
      found.append(_between_slices(run))
    elif each.opcode == 'fusion':
      inside = _inside(module, each)
      for computation, collective in inside:
        if _target(computation, 'AsyncCollectiveStart'):
          found.append(_transfer(collective, None, run, True, num_devices))
        elif collective.attribute(_CHANNEL) not in started:
          found.append(_transfer(collective, each, run, wrapped, num_devices))
  return found


def _refuse_others(module):
  """Raises an error where collectives are called in a way that is not known."""
  for computation in module.computations.values():
    for each in computation.instructions.values():
      if each.opcode in _CALLERS or each.opcode.endswith(_LATER):
        continue
      for name in each.called():
        if module.opcodes(name) & OPCODES:
          raise ValueError(
            f'the HLO instruction %{each.name}, of opcode {each.opcode!r}, '
            f'calls {name}, which has a collective: its bytes cannot be counted'
          )


def of_fusion(module: hlo.Module, instruction: hlo.Instruction) -> bool:
  """Whether an instruction is a collective, in a fusion or not."""
  if instruction.opcode == 'fusion':
    return bool(_inside(module, instruction))
  return instruction.opcode in OPCODES


def _inside(module, instruction):
  """(computation, collective) of all that a fusion is made of."""
  found = []
  for name in instruction.called():
    if not module.opcodes(name) & OPCODES:
      continue
    computation = module.computations[name]
    for each in computation.instructions.values():
      if each.opcode.removesuffix('-start') in KINDS:
        found.append((computation, each))
      elif each.opcode == 'fusion':
        found += _inside(module, each)
  return found


def _target(computation, target):
  """Whether a computation calls the kernel `target`."""
  return any(
    each.opcode == 'custom-call' and each.attribute(_TARGET) == target
    for each in computation.instructions.values()
  )


def _channels(computation):
  for each in computation.instructions.values():
    channel = each.attribute(_CHANNEL)
    if channel and each.opcode in KINDS:
      yield channel


def _transfer(collective, whole, run, asynchronous, num_devices):
  """The transfer of a collective that `whole` may make a smaller one of."""
  kind = collective.opcode.removesuffix('-start')
  group = group_size(collective, num_devices)
  results = hlo.size(collective.shape)
  if collective.opcode in ('all-gather-start', 'collective-permute-start'):
    # Its result holds its operand, and scalars, beside what is received.
    results = hlo.size(_parts(collective.shape)[1])
  share = (group - 1) / group
  if kind == 'all-reduce':
    wire = 2 * results * share
    kept = hlo.size(whole.shape) if whole else 0
    if whole is not collective and kept and kept * group <= results:
      # A fusion that keeps but a share of the sum: the compiler's own form
      # of a reduce-scatter.
      kind, wire = 'reduce-scatter', results * share
  elif kind == 'reduce-scatter':
    wire = results * (group - 1)
  elif kind == 'collective-permute':
    wire = results
  else:
    wire = results * share
  return Transfer(
    kind=kind,
    wire_bytes=wire,
    group=group,
    times=run.times,
    asynchronous=asynchronous,
    source=collective.attribute(r'op_name="((?:\\.|[^"\\])*)"') or '',
  )


def _between_slices(run):
  """The transfer that a send hands to the runtime."""
  each = run.instruction
  kind = _RUNTIME_KINDS.get(each.attribute(_BETWEEN_SLICES))
  # '{1,2}x{0:3}' are two slices, of which devices 0 to 3.
  slices = each.attribute(r'_xla_megascale_target="\{([^}]*)\}x')
  if kind is None or slices is None:
    raise ValueError(
      f'the HLO hands %{each.name} to the host, which is not understood: its '
      'bytes cannot be counted'
    )
  group = sum(_length(part) for part in slices.split(','))
  size = hlo.size(_parts(each.shape)[0])
  share = {
    'all-gather': group - 1,
    'all-reduce': 2 * (group - 1) / group,
    'collective-permute': 1,
  }.get(kind, (group - 1) / group)
  return Transfer(
    kind=kind,
    wire_bytes=size * share,
    group=group,
    times=run.times,
    asynchronous=_works_meanwhile(run),
    source=each.attribute(r'op_name="((?:\\.|[^"\\])*)"') or '',
    across=True,
  )


def _length(part):
  first, _, last = part.partition(':')
  return int(last or first) - int(first) + 1


def _works_meanwhile(run):
  """Whether anything is computed between a send and what is received."""
  channel, sent = run.instruction.attribute(_CHANNEL), False
  for each in run.computation.instructions.values():
    if each is run.instruction:
      sent = True
    elif sent and each.cycles:
      return True
    elif each.opcode == 'recv-done' and each.attribute(_CHANNEL) == channel:
      return False
  return False


def _parts(shape):
  """The parts of a tuple's shape, as texts; one part where it is none."""
  if not shape.startswith('('):
    return [shape]
  parts, depth, begin = [], 0, 1
  for index, letter in enumerate(shape):
    depth += (letter in '([{') - (letter in ')]}')
    if (letter == ',' and depth == 1) or depth == 0:
      parts.append(shape[begin:index])
      begin = index + 1
  return parts


def group_size(collective: hlo.Instruction, num_devices: int) -> int:
  """Between how many devices a collective is.

  Raises:
    ValueError: where its groups are written in a way that is not known.
  """
  text = collective.attributes
  if collective.opcode.startswith('collective-permute'):
    return 2
  mesh = re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', text)
  if mesh:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    # A part of an axis says behind which others it comes, and how many it is.
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
    if axes and all(axis in sizes for axis, _ in axes):
      return math.prod(int(part or sizes[axis]) for axis, part in axes)
  iota = re.search(r'replica_groups=\[(\d+),(\d+)\]<=', text)
  if iota:
    return int(iota[2])
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', text)
  if listed:
    return listed[1].count(',') + 1
  if re.search(r'replica_groups=\{\}', text):
    return num_devices
  raise ValueError(
    f'the HLO collective %{collective.name} has groups that are not '
    'understood: its bytes cannot be counted'
  )
