"""What sort of work an instruction is, and how many bytes it moves."""

import collections

from imagen_jax.precompile import collectives as collectives_lib
from imagen_jax.precompile import hlo
from imagen_jax.precompile import schedule

CATEGORIES = (
  'matrix units',
  'norms and reductions',
  'element-wise',
  'copies',
  'collectives',
)
_MATRIX = {'convolution', 'dot'}
_REDUCTIONS = {'reduce', 'reduce-window', 'select-and-scatter', 'sort'}
# What moves numbers and changes none.
_MOVES = {
  'bitcast',
  'broadcast',
  'concatenate',
  'constant',
  'copy',
  'copy-done',
  'copy-start',
  'dynamic-slice',
  'dynamic-update-slice',
  'fusion',
  'gather',
  'get-tuple-element',
  'iota',
  'pad',
  'parameter',
  'reshape',
  'reverse',
  'slice',
  'transpose',
  'tuple',
}
# What takes no time of its own: names of values, and prefetches, which go on
# beside other work.
_FREE = {
  'add-dependency',
  'after-all',
  'async-done',
  'async-start',
  'async-update',
  'bitcast',
  'call',
  'call-done',
  'call-start',
  'call-update',
  'conditional',
  'constant',
  'copy-done',
  'copy-start',
  'get-tuple-element',
  'opt-barrier',
  'parameter',
  'partition-id',
  'recv',
  'recv-done',
  'replica-id',
  'send',
  'send-done',
  'slice-done',
  'slice-start',
  'tuple',
  'while',
}
# 'SliceId' reads a number that the host has put into memory.
_FREE_CALLS = {
  'AllocateBuffer',
  'AsyncCollectiveDone',
  'AsyncCollectiveStart',
  'SliceId',
}
# Told by the bytes of all that they are of, which is the most that they take:
# 'ZeroCrop' writes zeros in place, where an array's tiles are larger than it,
# and 'ConcatBitcast' makes one array of several, which may lie so already.
_BY_BYTES = {'ConcatBitcast', 'ZeroCrop'}
_TARGET = r'custom_call_target="([^"]*)"'


def category(module: hlo.Module, instruction: hlo.Instruction) -> str:
  """Which of `CATEGORIES` an instruction's time is told under."""
  if instruction.attribute(_TARGET) in _BY_BYTES:
    return 'copies'
  opcodes = {instruction.opcode}
  if instruction.opcode == 'fusion':
    for name in instruction.called():
      opcodes |= module.opcodes(name)
  if opcodes & _MATRIX:
    return 'matrix units'
  if opcodes & collectives_lib.OPCODES and instruction.cycles is None:
    return 'collectives'
  own = opcodes - collectives_lib.OPCODES - {'custom-call'}
  if own & _REDUCTIONS:
    return 'norms and reductions'
  return 'copies' if own <= _MOVES else 'element-wise'


def check_kernel(instruction):
  """Raises ValueError for a kernel, whose time nobody estimates."""
  if instruction.opcode != 'custom-call':
    return
  target = instruction.attribute(_TARGET)
  if target not in _FREE_CALLS | _BY_BYTES:
    raise ValueError(
      f'the HLO calls %{instruction.name}, the kernel {target!r}, for which '
      'the compiler has no estimate: its time cannot be modelled'
    )


def takes_no_time(module, instruction):
  """Of an instruction without an estimate: whether it should have none."""
  if instruction.opcode == 'custom-call':
    return instruction.attribute(_TARGET) not in _BY_BYTES
  if instruction.opcode in _FREE:
    return True
  # Told by its bytes instead, in `traffic`.
  return collectives_lib.of_fusion(module, instruction)


def moved_bytes(module: hlo.Module, run: schedule.Run) -> int:
  """Bytes that an instruction reads and writes, each operand once.

  Of an operand that is only sliced, the slice; of a result that is an operand
  with a slice put in, the slice.
  """
  each = run.instruction
  shapes = run.computation.instructions
  inputs = [shapes[name] for name in each.inputs() if name in shapes]
  if each.opcode == 'dynamic-update-slice':
    return 2 * hlo.size(inputs[1].shape)
  if each.opcode in ('dynamic-slice', 'slice', 'gather'):
    return 2 * hlo.size(each.shape)
  if each.opcode != 'fusion':
    return hlo.size(each.shape) + sum(hlo.size(i.shape) for i in inputs)
  (name,) = each.called()
  inside = module.computations[name]
  written = sum(_written(inside, part) for part in _results(inside))
  return written + sum(_read(inside).values())


def _results(computation):
  if computation.root.opcode != 'tuple':
    return [computation.root]
  return [computation.instructions[n] for n in computation.root.inputs()]


def _written(computation, result):
  """Bytes of a fusion's result that are new."""
  while result.opcode == 'bitcast':
    result = computation.instructions[result.inputs()[0]]
  if result.opcode == 'dynamic-update-slice':
    return hlo.size(computation.instructions[result.inputs()[1]].shape)
  if result.opcode == 'parameter':
    return 0  # Handed on, as the state of a collective that goes on.
  return hlo.size(result.shape)


def _read(computation):
  """Bytes of each parameter of a fusion that are read."""
  users = collections.defaultdict(list)
  for each in computation.instructions.values():
    for place, name in enumerate(each.inputs()):
      users[name].append((place, each))
  read = {}
  for name, each in computation.instructions.items():
    if each.opcode != 'parameter':
      continue
    whole, total = hlo.size(each.shape), 0
    for place, user in users[name]:
      if user.opcode in ('dynamic-slice', 'slice', 'gather'):
        total += hlo.size(user.shape) if place == 0 else 0
      elif user.opcode == 'dynamic-update-slice' and place == 0:
        pass  # What is put into is not read.
      elif user.opcode in collectives_lib.OPCODES or user.opcode == 'tuple':
        pass
      else:
        total += whole
    read[name] = min(total, whole)
  return read
