"""What a build makes of the records, and what of it a person may set."""

import dataclasses

from imagen_jax import config as config_lib

FORMATS = ('jpeg', 'png', 'webp')
DUPLICATES = ('near', 'exact', 'keep')

# Names in the folder of a build that are not those of tasks.
_TAKEN = ('report.json', 'report.txt')

# Every record has these.
OWN_FIELDS = ('image', 'captions', 'key')


@dataclasses.dataclass(frozen=True)
class Options:
  """How records become a dataset. The same ones give the same bytes.

  Attributes:
    sizes: of stages, in pixels, ascending. A picture's shorter side becomes
      the largest that it reaches; a picture that reaches none is dropped.
    form: one of `FORMATS`; JPEG has losses, the others none.
    duplicates: one of `DUPLICATES`: which copies of a picture are left out.
    near_bits: bits of 64 in which the looks of near duplicates differ at most.
    num_shards: of each task; None takes as many as `shard_mib` asks for.
    shard_mib: about the size of a shard.
    keep: fields of metadata that stay, beside those that filters name.
  """

  sizes: tuple[int, ...]
  form: str = 'jpeg'
  duplicates: str = 'near'
  near_bits: int = 3
  num_shards: int | None = None
  shard_mib: int = 256
  keep: tuple[str, ...] = ()

  def __post_init__(self):
    sizes = self.sizes
    if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
      raise ValueError(
        f'--sizes is {",".join(map(str, sizes))!r}; accepted: pixels, each '
        'more than the one before, as 64,256,1024'
      )
    for name, value, accepted in (
      ('format', self.form, FORMATS),
      ('duplicates', self.duplicates, DUPLICATES),
    ):
      if value not in accepted:
        raise ValueError(
          f'--{name} is {value!r}; accepted: {", ".join(accepted)}'
        )
    if not 0 <= self.near_bits <= 3:
      raise ValueError(f'--near-bits is {self.near_bits}; accepted: 0 to 3')
    if self.num_shards is not None and self.num_shards < 1:
      raise ValueError(
        f'--num-shards is {self.num_shards}; accepted: 1 or more'
      )
    if self.shard_mib < 1:
      raise ValueError(f'--shard-mib is {self.shard_mib}; accepted: 1 or more')
    if set(self.keep) & set(OWN_FIELDS):
      raise ValueError(
        f'--keep is {list(self.keep)}; accepted: fields of the metadata, not '
        f'{list(OWN_FIELDS)}, which always stay'
      )


def chosen(
  config: config_lib.Config, names: list[str]
) -> tuple[config_lib.TaskConfig, ...]:
  """Returns the tasks of `config` that are built, in its order.

  Args:
    config: the run.
    names: of tasks; none is all.

  Raises:
    ValueError: where there are none, or a name is that of no task or of no
      folder.
  """
  tasks = config.data.tasks
  there = [task.name for task in tasks]
  unknown = [name for name in names if name not in there]
  if unknown or not tasks:
    raise ValueError(
      f'--task is {unknown}; accepted: tasks of the config: {there}'
      if tasks
      else 'data.tasks is empty; accepted: at least one task (name, path)'
    )
  for name in there:
    if name in _TAKEN or name.startswith('.') or '/' in name:
      raise ValueError(
        f'data.tasks has the name {name!r}; accepted: names that a folder of '
        f"a build can have: without '/', not {' or '.join(_TAKEN)}, and not "
        'hidden'
      )
  return tuple(task for task in tasks if not names or task.name in names)
