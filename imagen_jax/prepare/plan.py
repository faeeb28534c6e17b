"""Which records go to which shard: equal runs of what is left, in order."""

from collections.abc import Sequence
import dataclasses

from imagen_jax.prepare import options as options_lib
from imagen_jax.prepare import parts as parts_lib

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Run:
  """Some of the records that are left of a range, one behind the other.

  Attributes:
    name: of the range.
    first: the first one's number, among those that are left.
    stop: one more than the last one's.
  """

  name: str
  first: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Shard:
  """A shard that is to be written.

  Attributes:
    task: its name, which is that of the shard's folder, too.
    number: of the shard, from 0.
    total: of the task's shards.
    runs: what it holds.
  """

  task: str
  number: int
  total: int
  runs: tuple[Run, ...]

  @property
  def name(self) -> str:
    """Of its file."""
    return f'{self.task}-{self.number:05d}-of-{self.total:05d}.array_record'


def by_task(parts: Sequence[parts_lib.Part]) -> dict[str, list]:
  """Returns the parts of each task, by its name, in order."""
  found = {}
  for part in parts:
    found.setdefault(part.task.name, []).append(part)
  return found


def shards(
  parts: Sequence[parts_lib.Part],
  summary: dict,
  options: options_lib.Options,
) -> list[Shard]:
  """Returns the shards of all tasks; those of one differ by a record at most.

  What a task holds out comes last, as `heldout` of a config wants it.

  Raises:
    ValueError: where nothing is left of a task, or too little for the shards
      that were asked for.
  """
  found = []
  for task, some in by_task(parts).items():
    runs = [
      (parts_lib.Range(part, start).name, count)
      for part in some
      for start, count, _ in summary[str(part.number)]['ranges']
    ]
    total = sum(count for _, count in runs)
    if not total:
      raise ValueError(
        f'data.tasks[{task}] has no record left of '
        f'{sum(part.size for part in some)}; accepted: one at least, or leave '
        'it out by --task'
      )
    size = sum(summary[str(part.number)]['bytes'] for part in some)
    number = options.num_shards or max(
      1, min(total, round(size / (options.shard_mib * _MIB)))
    )
    if number > total:
      raise ValueError(
        f'--num-shards is {number}, but {total} records are left of '
        f'data.tasks[{task}]; accepted: up to as many'
      )
    found.extend(_cut(task, runs, total, number))
  return found


def _cut(task, runs, total, number):
  """Yields shards of equal runs of records."""
  runs = iter(runs)
  name, count, used = '', 0, 0
  for shard in range(number):
    wanted = total * (shard + 1) // number - total * shard // number
    inside = []
    while wanted:
      while used == count:
        (name, count), used = next(runs), 0
      taken = min(wanted, count - used)
      inside.append(Run(name, used, used + taken))
      used, wanted = used + taken, wanted - taken
    yield Shard(task, shard, number, tuple(inside))
