"""What of a program is executed in a step, and how often.

Loops go round as often as their conditions say; of a conditional's branches
the dearest is taken.
"""

import dataclasses
import functools
import re

from imagen_jax.precompile import hlo

_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# What starts a computation and goes on: 'call-start' hands it to other cores.
BESIDE = ('async-start', 'call-start')
# Collectives that are of a sum.
_SUMS = {'all-reduce', 'all-reduce-start', 'reduce-scatter'}
# What hands a value on unchanged.
_SAME = ('copy', 'bitcast', 'reshape', 'convert', 'copy-start', 'copy-done')


@dataclasses.dataclass(frozen=True)
class Run:
  """An instruction that is executed.

  Attributes:
    instruction: which.
    computation: that it stands in.
    times: how often in a step.
    asynchronous: whether it is wrapped in an `async-start` or such.
  """

  instruction: hlo.Instruction
  computation: hlo.Computation
  times: int
  asynchronous: bool = False


def executed(module: hlo.Module) -> list[Run]:
  """What a step executes: loops as often as they go round.

  Of a conditional's branches, the dearest.

  Raises:
    ValueError: for a loop of unknown length, and where an estimate stands in
      a computation that is not executed.
  """
  # What a collective adds up by is a part of it, and counts by its bytes. Where
  # tpu7x hands one to its SparseCores, that has an estimate of its own.
  seen = {
    name
    for computation in module.computations.values()
    for instruction in computation.instructions.values()
    if instruction.opcode in _SUMS
    for name in instruction.called()
  }
  runs = _executed(module, module.entry, 1, False, seen)
  for name, computation in module.computations.items():
    for instruction in computation.instructions.values():
      if name not in seen and instruction.cycles is not None:
        raise ValueError(
          f'the HLO instruction %{instruction.name} of {name} has an estimate '
          'of cycles and is not executed: it is not understood'
        )
  return runs


def _executed(module, computation, times, asynchronous, seen):
  seen.add(computation.name)
  runs = []
  into = functools.partial(_executed, module, seen=seen)
  for each in computation.instructions.values():
    if each.opcode == 'while':
      trips = trip_count(module, computation, each)
      for part, more in (('body', trips), ('condition', trips + 1)):
        inner = module.computations[each.attribute(rf'\b{part}=%([\w.\-]+)')]
        runs += into(inner, times * more, asynchronous)
    elif each.opcode == 'conditional':
      branches = [
        into(module.computations[name], times, asynchronous)
        for name in _branches(each)
      ]
      runs += max(branches, key=cycles)
    elif each.opcode in ('call', *BESIDE):
      wrapped = asynchronous or each.opcode in BESIDE
      for name in each.called():
        runs += into(module.computations[name], times, wrapped)
    if each.cycles is not None or each.opcode not in ('while', 'conditional'):
      runs.append(Run(each, computation, times, asynchronous))
  return runs


def _branches(conditional):
  listed = conditional.attribute(r'branch_computations=\{([^}]*)\}')
  if listed:
    return re.findall(r'%([\w.\-]+)', listed)
  parts = [
    conditional.attribute(rf'\b{each}_computation=%([\w.\-]+)')
    for each in ('true', 'false')
  ]
  if None in parts:
    raise ValueError(
      f'the HLO conditional %{conditional.name} has unknown branches'
    )
  return parts


def cycles(runs: list[Run]) -> int:
  """Estimated cycles of all of them."""
  return sum(run.times * (run.instruction.cycles or 0) for run in runs)


def trip_count(module, computation, loop) -> int:
  """How often a `while` goes round.

  As XLA states it, or as its condition `i < n` says, where i counts from a
  constant in steps of a constant.

  Raises:
    ValueError: where neither is so.
  """
  stated = _TRIPS.search(loop.attributes)
  if stated:
    return int(stated[1])
  of = lambda part: module.computations[
    loop.attribute(rf'\b{part}=%([\w.\-]+)')
  ]
  condition, body = of('condition'), of('body')
  (state,) = loop.inputs()
  initial = lambda index: _constant(
    computation, computation.instructions[state], index
  )
  test = condition.root
  if test.opcode == 'compare' and test.attribute(r'direction=(\w+)') == 'LT':
    counter, bound = (_source(condition, name) for name in test.inputs())
    index = _element(counter)
    limit = _value(bound)
    if limit is None and _element(bound) is not None:
      limit = initial(_element(bound))
    if index is not None:
      start, step = initial(index), _step(body, index, initial)
      if None not in (start, step, limit) and step > 0:
        return max(-(-(limit - start) // step), 0)
  raise ValueError(
    f'the HLO loop %{loop.name} has no trip count that is known: its time '
    'cannot be modelled'
  )


def _source(computation, name):
  """The instruction that `name` is a copy of."""
  found = computation.instructions[name]
  while found.opcode in _SAME:
    found = computation.instructions[found.inputs()[0]]
  return found


def _value(instruction):
  """Of an integer constant, its value; else None."""
  if instruction.opcode == 'constant':
    if re.fullmatch(r'-?\d+', instruction.operands):
      return int(instruction.operands)
  return None


def _element(instruction):
  """Of an element of a loop's state, its index; else None."""
  if instruction.opcode != 'get-tuple-element':
    return None
  return int(instruction.attribute(r'\bindex=(\d+)'))


def _constant(computation, state, index):
  """The constant that element `index` of a loop's initial state is, or None."""
  if state.opcode != 'tuple':
    return None
  return _value(_source(computation, state.inputs()[index]))


def _step(body, index, initial):
  """By how much a body raises element `index` of its state, or None."""
  if body.root.opcode != 'tuple':
    return None
  found = _source(body, body.root.inputs()[index])
  if found.opcode != 'add':
    return None
  parts = [_source(body, name) for name in found.inputs()]
  counters = [part for part in parts if _element(part) == index]
  others = [part for part in parts if _element(part) != index]
  if len(counters) != 1 or len(others) != 1:
    return None
  (other,) = others
  value = _value(other)
  if value is None and _element(other) is not None:
    # A constant that was carried through the loop, which must not change it.
    element = _element(other)
    kept = _source(body, body.root.inputs()[element])
    value = initial(element) if _element(kept) == element else None
  return value
