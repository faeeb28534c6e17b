"""What a scan of a shard finds: where its records begin, and what is broken."""

import array
import dataclasses


@dataclasses.dataclass
class Scan:
  """Where the records of a shard lie.

  Attributes:
    records: how many there are.
    entries: ascending numbers; what they are is the kind's own.
    damage: what is wrong with the shard as a whole, or ''; records in front
      of it can be read.
  """

  records: int
  entries: array.array
  damage: str = ''


def of_starts(starts: array.array, end: int, damage: str) -> Scan:
  """Returns the scan of records that lie one behind the other.

  Args:
    starts: where each record begins, in bytes.
    end: where the last one ends.
    damage: as in `Scan`.
  """
  count = len(starts)
  starts.append(end)
  return Scan(count, starts, damage)
