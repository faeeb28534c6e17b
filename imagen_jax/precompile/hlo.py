"""Scheduled HLO, read from the text that XLA prints of it.

With the cycles that the TPU's compiler estimated for each instruction. A text
that cannot be read in full is refused, since a step time with a part missing
looks like a fast step.
"""

import dataclasses
import functools
import math
import re

# Bytes of a type are a part of its name, mostly.
_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
_TYPE = re.compile(r'\b([a-z]\w*)\[([^\]]*)\]')
_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{\s*$', re.DOTALL)
_INSTRUCTION = re.compile(r'\s+(ROOT )?%([\w.\-]+) = ')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_CYCLES = re.compile(r'"estimated_cycles":"(-?\d+)"')
_REFERENCE = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(r'\b(?:calls|to_apply)=%([\w.\-]+)')


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
  """One line of a computation, or several.

  Attributes:
    name: its own.
    shape: what it gives, as text.
    opcode: what it does.
    operands: what is between its parentheses, as text.
    attributes: what follows, as text.
    cycles: that the compiler estimated; None where it did not.
  """

  name: str
  shape: str
  opcode: str
  operands: str
  attributes: str
  cycles: int | None

  def inputs(self) -> list[str]:
    """Names of the instructions that it takes."""
    return _REFERENCE.findall(self.operands)

  def called(self) -> list[str]:
    """Names of computations that it is made of."""
    return _CALLED.findall(self.attributes)

  def attribute(self, pattern: str) -> str | None:
    """The first group of a pattern in its attributes."""
    found = re.search(pattern, self.attributes)
    return found and found[1]


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions in the order that they are executed.

  Attributes:
    name: its own.
    instructions: by name.
    root: the one whose result is the computation's.
  """

  name: str
  instructions: dict[str, Instruction]
  root: Instruction


@dataclasses.dataclass(frozen=True)
class Module:
  """A program for one device.

  Attributes:
    computations: by name.
    entry: the one that it starts with.
  """

  computations: dict[str, Computation]
  entry: Computation

  def __hash__(self):
    return id(self)

  @functools.cached_property
  def _opcodes(self):
    return {}

  def opcodes(self, name: str) -> frozenset[str]:
    """Opcodes of a computation and all that it calls."""
    if name not in self._opcodes:
      found = set()
      for each in self.computations[name].instructions.values():
        found.add(each.opcode)
        for callee in each.called() if each.opcode == 'fusion' else ():
          found |= self.opcodes(callee)
      self._opcodes[name] = frozenset(found)
    return self._opcodes[name]


def size(shape: str) -> int:
  """Bytes of a shape, of all its parts where it is a tuple.

  Raises:
    ValueError: for a type that is not known.
  """
  total = 0
  for kind, dims in _TYPE.findall(shape):
    bits = _BITS.get(kind)
    if bits is None:
      found = re.match(r'[a-z]+?(\d+)', kind)
      if not found:
        raise ValueError(f'the HLO has a type {kind!r}, whose size is unknown')
      bits = int(found[1])
    dims = [int(d.strip().removeprefix('<=')) for d in dims.split(',') if d]
    total += (math.prod(dims) * bits + 7) // 8
  return total


def parse(text: str) -> Module:
  """The module that a text is of.

  Raises:
    ValueError: where something of it is not understood, or there are more
      estimates in the text than instructions to have them.
  """
  computations, entry = {}, None
  for head, lines in _computations(text):
    found = _HEAD.match(head)
    instructions, root = {}, None
    for line in lines:
      instruction, is_root = _instruction(line)
      instructions[instruction.name] = instruction
      root = instruction if is_root else root
    if root is None:
      raise ValueError(f'the HLO computation {found[2]} has no ROOT')
    computations[found[2]] = Computation(found[2], instructions, root)
    entry = computations[found[2]] if found[1] else entry
  if entry is None:
    raise ValueError('the HLO has no ENTRY computation')
  kept = sum(
    instruction.cycles is not None
    for computation in computations.values()
    for instruction in computation.instructions.values()
  )
  stated = text.count('"estimated_cycles"')
  if kept != stated:
    raise ValueError(
      f'the HLO states {stated} estimates of cycles and {kept} were read: it '
      'is not understood'
    )
  return Module(computations, entry)


def _computations(text):
  """Yields (head, instructions), each instruction one string of its lines."""
  head, lines, inside_string = None, [], False
  for line in text.split('\n'):
    begins = not inside_string
    quotes = line.count('"')
    if '\\' in line:
      quotes = re.sub(r'\\.', '', line).count('"')
    inside_string ^= quotes % 2 == 1
    if not begins:
      if head is not None:
        lines[-1] += '\n' + line
    elif head is None:
      if _HEAD.match(line):
        head, lines = line, []
    elif line.startswith('}'):
      yield head, lines
      head = None
    elif _INSTRUCTION.match(line):
      lines.append(line)
    elif line.strip():
      if not lines:
        raise ValueError(f'the HLO has a line that is no instruction: {line!r}')
      lines[-1] += '\n' + line
  if head is not None or inside_string:
    raise ValueError('the HLO ends inside a computation: it is not whole')


def _instruction(line):
  """The instruction of its lines, and whether it is the root."""
  found = _INSTRUCTION.match(line)
  rest = line[found.end() :]
  end = _closing(rest) if rest.startswith('(') else rest.find(' ')
  opcode = _OPCODE.match(rest, end)
  if end < 0 or not opcode:
    raise ValueError(f'the HLO instruction %{found[2]} has no opcode')
  close = _closing(rest, opcode.end() - 1)
  estimates = _CYCLES.findall(rest, close)
  if len(estimates) > 1 or any(int(each) < 0 for each in estimates):
    raise ValueError(
      f'the HLO instruction %{found[2]} has the estimates {estimates}; '
      'accepted: one of 0 cycles or more'
    )
  return Instruction(
    name=found[2],
    shape=rest[:end],
    opcode=opcode[1],
    operands=rest[opcode.end() : close - 1],
    attributes=rest[close:],
    cycles=int(estimates[0]) if estimates else None,
  ), bool(found[1])


def _closing(text, start=0):
  """Index behind the parenthesis that closes the one at `start`."""
  depth = 0
  for found in re.compile(r'[()]').finditer(text, start):
    depth += 1 if found[0] == '(' else -1
    if depth == 0:
      return found.end()
  raise ValueError(f'the HLO has an unclosed parenthesis: {text[:80]!r}')
