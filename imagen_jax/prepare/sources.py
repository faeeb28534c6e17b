"""The records of the parts of a build: opened, and told apart."""

from collections.abc import Sequence
import dataclasses
import functools
import json

from imagen_jax import config as config_lib
from imagen_jax.data import records as records_lib
from imagen_jax.prepare import parts as parts_lib


def of(
  tasks: Sequence[config_lib.TaskConfig],
  *,
  min_size: int,
  max_missing_share: float,
) -> tuple[parts_lib.Part, ...]:
  """Returns the parts of tasks: of each its split, then what it holds out.

  Raises:
    ValueError: where one cannot be opened.
  """
  found = []
  for task in tasks:
    dataset = records_lib.open_dataset(
      task, max_missing_share=max_missing_share
    )
    splits = [task.split]
    if records_lib.HELDOUT in dataset.splits:
      splits.append(records_lib.HELDOUT)
    for split in dict.fromkeys(splits):
      size = len(records_lib.Records(task, dataset, split))
      if size:
        found.append(
          parts_lib.Part(
            len(found), task, split, min_size, max_missing_share, size
          )
        )
  return tuple(found)


@functools.cache
def records(part: parts_lib.Part) -> records_lib.Records:
  """Returns the records of a part, opened once a process."""
  dataset = records_lib.open_dataset(
    part.task, max_missing_share=part.max_missing_share
  )
  return records_lib.Records(
    part.task, dataset, part.split, min_size=part.min_size
  )


def describe(parts: Sequence[parts_lib.Part]) -> dict:
  """Returns what the parts hold and what is used of it, as JSON has it.

  The same wherever the data lie.
  """
  found = {}
  for part in parts:
    fields = dataclasses.asdict(part.task)
    for name in ('name', 'path', 'index', 'rate'):
      del fields[name]
    task = found.setdefault(part.task.name, {'fields': fields, 'splits': {}})
    task['splits'][part.split] = {
      'records': part.size,
      'fingerprint': records(part).fingerprint,
    }
  return json.loads(json.dumps(found))
