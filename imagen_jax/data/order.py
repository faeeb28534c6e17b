"""The global order of examples: a function of (seed, slot), and no state.

A *slot* is one row of one global batch: slot = step * batch_size + row, as long
as a run has not changed the size of its batches. Every
host can tell which record any slot holds without having read the ones before
it, so that a run resumes at a step without replaying it, and any number of
hosts make the same global batches. Memory does not grow with the data.

The arithmetic is ours, in 64-bit integers, rather than a library's shuffle: a
run that is resumed under newer packages must see the same order. `VERSION`
names this arithmetic and is kept in checkpoints.
"""

import dataclasses
import functools
import math

import numpy as np

VERSION = 1

# Slots are dealt to tasks in blocks of this many. It is divisible by every
# number up to 10, so that small whole-numbered rates come out exactly.
BLOCK = 5040

_ROUNDS = 6

# What a hash is for: two purposes never share random bits.
_PURPOSES = {'interleave': 1, 'epoch': 2, 'example': 3, 'left': 4, 'top': 5}


def _mix(x):
  """The finaliser of SplitMix64 on uint64 arrays: a bijection that scatters."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def _hash(*words):
  """Returns a uint64 array, a hash of the integers (or arrays) `words`."""
  state = np.zeros(1, np.uint64)
  for word in words:
    word = np.asarray(word, np.int64).astype(np.uint64)
    state = _mix((state ^ word) + np.uint64(0x9E3779B97F4A7C15))
  return state


def _scatter(cell, width, height, key):
  """A keyed permutation of the cells of a grid, uint64 [B].

  Each round adds to one coordinate a hash of the other, which can be undone:
  a generalised Feistel network (Black and Rogaway, "Ciphers with arbitrary
  finite domains", 2002).
  """
  row, column = np.divmod(cell, width)
  for turn in range(0, _ROUNDS, 2):
    column = (column + _mix((key + np.uint64(turn)) ^ _mix(row))) % width
    row = (row + _mix((key + np.uint64(turn + 1)) ^ _mix(column))) % height
  return row * width + column


def permute(index, size: int, key):
  """Returns where a pseudo-random permutation of range(size) sends `index`.

  The permutation is one of a grid that just holds `size`; what lands on one of
  the few cells beyond it is permuted again, seldom more than once.

  Args:
    index: positions in [0, size), int64 [B].
    size: how many there are.
    key: names the permutation, uint64 [B] or [1].

  Returns:
    int64 [B], in [0, size); distinct for distinct `index` of one key.
  """
  out = np.asarray(index, np.int64).astype(np.uint64)
  key = np.broadcast_to(key, out.shape)
  width = math.isqrt(size - 1) + 1
  height = np.uint64(-(-size // width))
  width = np.uint64(width)
  out = _scatter(out, width, height, key)
  todo = np.flatnonzero(out >= np.uint64(size))
  while todo.size:
    out[todo] = _scatter(out[todo], width, height, key[todo])
    todo = todo[out[todo] >= np.uint64(size)]
  return out.astype(np.int64)


def words(seed) -> np.ndarray:
  """Returns seeds of examples, int32 [B, 2], as single hashes, int64 [B]."""
  return np.ascontiguousarray(seed, np.int32).view(np.int64)[:, 0]


def places(seed) -> np.ndarray:
  """Returns where crops lie, by seeds: float64 [B, 2] in [0, 1)."""
  hashes = [_hash(_PURPOSES[name], words(seed)) for name in ('left', 'top')]
  # The upper 53 bits: what a double holds.
  return (np.stack(hashes, 1) >> np.uint64(11)) * 2.0**-53


def _counts(rates):
  """Returns how many slots of a block each task gets, by largest remainder."""
  quota = np.asarray(rates, np.float64) * (BLOCK / math.fsum(rates))
  counts = np.floor(quota).astype(np.int64)
  # Stable, so that equal remainders are settled by the order of the tasks.
  for task in np.argsort(counts - quota, kind='stable')[: BLOCK - counts.sum()]:
    counts[task] += 1
  return counts


# A host works its way from block to block; a few tasks' readers are some apart.
@functools.lru_cache(maxsize=16)
def _deal(seed, block, counts, start):
  """Returns a block's tasks, and each slot's rank among its task's, [BLOCK]."""
  dealt = np.repeat(np.arange(len(counts)), counts)
  since = (start,) if start else ()
  key = _hash(_PURPOSES['interleave'], seed, block, *since)
  dealt = dealt[permute(np.arange(BLOCK), BLOCK, key)]
  rank = np.empty(BLOCK, np.int64)
  for task, count in enumerate(counts):
    rank[dealt == task] = np.arange(count)
  return dealt, rank


@dataclasses.dataclass(frozen=True)
class _Phase:
  """Slots that are dealt at the same rates.

  Attributes:
    start: the first of them; blocks are counted from there.
    counts: how many slots of a block each task gets.
    before: how many slots each task had before.
  """

  start: int
  counts: tuple[int, ...]
  before: np.ndarray

  def deal(self, seed, block):
    """Returns what `_deal` does, of a block of this phase."""
    return _deal(seed, block, self.counts, self.start)

  def until(self, seed, slot):
    """Returns how many slots before `slot` each task has, int64 [tasks]."""
    blocks, inside = divmod(slot - self.start, BLOCK)
    dealt, _ = self.deal(seed, blocks)
    part = np.bincount(dealt[:inside], minlength=len(self.counts))
    return self.before + blocks * np.array(self.counts) + part


@dataclasses.dataclass(frozen=True)
class Order:
  """Which record stands in which slot.

  Attributes:
    seed: of the whole order.
    names: of the tasks, for messages.
    rates: their shares of the mixture, relative to each other.
    sizes: how many records each has.
    changes: pairs of a slot and the rates from that one on, slots ascending.
      The tasks' streams go on where they are: positions still count up from 0,
      none left out and none twice.
    shuffle: whether each epoch of a task is permuted. Tasks are interleaved
      either way.

  Raises:
    ValueError: where a task has no records, or too small a share of a block,
      or changes do not ascend.
  """

  seed: int
  names: tuple[str, ...]
  rates: tuple[float, ...]
  sizes: tuple[int, ...]
  shuffle: bool = True
  changes: tuple[tuple[int, tuple[float, ...]], ...] = ()

  def __post_init__(self):
    for name, size in zip(self.names, self.sizes, strict=True):
      if size < 1:
        raise ValueError(
          f'data.tasks[{name}] has {size} records; accepted: 1 or more'
        )
    slots = [0, *(slot for slot, _ in self.changes)]
    if any(later <= slot for slot, later in zip(slots, slots[1:])):
      raise ValueError(
        f'the mixture changes at slots {slots[1:]}; accepted: ascending ones '
        'above 0'
      )
    for rates in (self.rates, *(rates for _, rates in self.changes)):
      self._check(rates)

  def _check(self, rates):
    for name, rate, count in zip(self.names, rates, _counts(rates)):
      if not count:
        raise ValueError(
          f'data.tasks[{name}].rate is {rate}, of '
          f'{math.fsum(rates)} in all; accepted: at least one example '
          f'in {BLOCK}'
        )

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """How many slots of a block each task gets at first; sums to BLOCK."""
    return _counts(self.rates)

  @functools.cached_property
  def _phases(self):
    nothing = np.zeros(len(self.names), np.int64)
    phases = [_Phase(0, tuple(self.counts.tolist()), nothing)]
    for slot, rates in self.changes:
      before = phases[-1].until(self.seed, slot)
      phases.append(_Phase(slot, tuple(_counts(rates).tolist()), before))
    return phases

  def changed(self, slot: int, rates: tuple[float, ...]) -> 'Order':
    """Returns the order that has other rates from a slot on.

    What it would have become later is forgotten. Rates that give the same
    shares are no change.

    Args:
      slot: the first of them.
      rates: as many as there are tasks.
    """
    kept = tuple(change for change in self.changes if change[0] < slot)
    last = kept[-1][1] if kept else self.rates
    if not slot:
      return dataclasses.replace(self, rates=rates, changes=())
    if not np.array_equal(_counts(last), _counts(rates)):
      kept += ((slot, rates),)
    return dataclasses.replace(self, changes=kept)

  def place(self, slot) -> tuple[np.ndarray, np.ndarray]:
    """Returns (task, position in that task's stream) of each slot, int64 [B].

    Positions of a task count up from 0 as slots do, none left out.

    Args:
      slot: int64 [B], from 0.
    """
    slot = np.asarray(slot, np.int64)
    task = np.empty(slot.shape, np.int64)
    position = np.empty(slot.shape, np.int64)
    starts = [phase.start for phase in self._phases]
    numbers = np.searchsorted(starts, slot, side='right') - 1
    for number in np.unique(numbers):
      phase, within = self._phases[number], numbers == number
      found = self._place(phase, slot[within] - phase.start)
      task[within], position[within] = found
    return task, position

  def _place(self, phase, slot):
    """Returns what `place` does, of slots of one phase, from its start."""
    task, position = np.empty_like(slot), np.empty_like(slot)
    counts = np.array(phase.counts)
    blocks, inside = np.divmod(slot, BLOCK)
    for block in np.unique(blocks):
      here = blocks == block
      dealt, rank = phase.deal(self.seed, int(block))
      task[here] = dealt[inside[here]]
      position[here] = rank[inside[here]] + block * counts[task[here]]
    return task, position + phase.before[task]

  def records(self, task: int, position, attempt: int = 0) -> np.ndarray:
    """Returns which records positions of a task's stream read, int64 [B].

    Args:
      task: number of the task.
      position: in its stream, from 0, int64 [B]; each `sizes[task]` positions
        are an epoch.
      attempt: how many records were tried for these positions and found to be
        of no use.
        The attempts of a position go through all records of the epoch.
    """
    size = self.sizes[task]
    epoch, inside = np.divmod(np.asarray(position, np.int64), size)
    inside = (inside + attempt * self._stride(task)) % size
    if not self.shuffle:
      return inside
    key = _hash(_PURPOSES['epoch'], self.seed, task, epoch)
    return permute(inside, size, key)

  def _stride(self, task):
    """A step through an epoch that meets every record, far from 1.

    Replacements are then spread over the data: a run of bad neighbours in an
    unshuffled set does not multiply the one good record behind it.
    """
    size = self.sizes[task]
    stride = max(1, int(size * 0.618))
    while math.gcd(stride, size) != 1:
      stride += 1
    return stride

  def example_seed(self, slot) -> np.ndarray:
    """Returns the seed of a slot's own random choices, int32 [B, 2]."""
    bits = _hash(_PURPOSES['example'], self.seed, np.atleast_1d(slot))
    return bits.view(np.int32).reshape(-1, 2)
