"""What is read: splits of tasks, cut into ranges of records.

A record's rank, its part's number and its own, puts all records of a build
into one order: of copies the first one stays, and shards follow it.
"""

from collections.abc import Sequence
import dataclasses

from imagen_jax import config as config_lib

# Bits of a rank that number a record in its part.
_INDEX_BITS = 40

# Records of a range: many, so that hundreds of millions make no more than some
# 100,000 ranges; few, where there are few records, so that there are some
# ranges to share. What is written hangs on neither.
_LARGEST, _SMALLEST, _RANGES = 4096, 64, 1024


@dataclasses.dataclass(frozen=True)
class Part:
  """A split of a task.

  Attributes:
    number: in the order of the build.
    task: its config.
    split: its name.
    min_size: pictures with a shorter side are dropped.
    max_missing_share: of records in shards that are gone, that is accepted.
    size: how many records it has.
  """

  number: int
  task: config_lib.TaskConfig
  split: str
  min_size: int
  max_missing_share: float
  size: int

  @property
  def step(self) -> int:
    """Records of each of its ranges, but the last one."""
    return min(_LARGEST, max(_SMALLEST, -(-self.size // _RANGES)))


@dataclasses.dataclass(frozen=True)
class Range:
  """Records of a part.

  Attributes:
    part: their part.
    start: the first one's number; a multiple of the part's step.
  """

  part: Part
  start: int

  @property
  def stop(self) -> int:
    """One more than the last one's number."""
    return min(self.start + self.part.step, self.part.size)

  @property
  def name(self) -> str:
    """Of its files."""
    return f'{self.part.number:03d}-{self.start:012d}'


def rank(part: int, index: int) -> int:
  """Returns the place of a record in the order of the build."""
  return part << _INDEX_BITS | index


def located(parts: Sequence[Part], rank: int) -> tuple[Range, int]:
  """Returns the range of a rank, and the record's number in its part."""
  part = parts[rank >> _INDEX_BITS]
  index = rank & (1 << _INDEX_BITS) - 1
  return Range(part, index - index % part.step), index
