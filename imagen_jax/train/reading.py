"""What all hosts have read: records used, bad and dropped."""

import jax
from jax.experimental import multihost_utils
import numpy as np

_KINDS = ('seen', 'bad', 'dropped')


def over_hosts(
  counts: dict[str, dict], tasks: list[str], copies: int = 1
) -> np.ndarray:
  """Sums of what every host counts.

  Each host reads its own share of the data, so that what is wrong with some
  of it is seen by some hosts alone. To be called on all of them, at the same
  step.

  Args:
    counts: this host's, from `data.tally.Tally.counts`, since it started; a
      task of which it has read nothing yet is absent.
    tasks: names of all tasks, in an order that all hosts have.
    copies: hosts that read the same, as those do which share pictures.

  Returns:
    Records read, bad and dropped of each task, int64 [len(tasks), 3].
  """
  here = np.zeros((len(tasks), len(_KINDS)), np.int64)
  for row, task in zip(here, tasks):
    found = counts.get(task, {'seen': 0, 'bad': {}, 'dropped': {}})
    row[0] = found['seen']
    row[1:] = [sum(found[kind].values()) for kind in _KINDS[1:]]
  if jax.process_count() == 1:
    return here
  # As halves: without its 64-bit mode JAX would cut them off at two billion.
  every = multihost_utils.process_allgather(here.view(np.int32))
  return np.ascontiguousarray(every).view(np.int64).sum(axis=0) // copies


def as_state(totals: np.ndarray, tasks: list[str]) -> dict[str, list[int]]:
  """`over_hosts` as JSON can hold it, to be kept with a checkpoint."""
  return dict(zip(tasks, totals.tolist()))


def from_state(kept: dict[str, list[int]], tasks: list[str]) -> np.ndarray:
  """What `as_state` kept, of the tasks that there are now.

  A task that is new has nothing, and one that is gone is left out.
  """
  nothing = [0] * len(_KINDS)
  return np.array([kept.get(task, nothing) for task in tasks], np.int64)


def metrics(totals: np.ndarray, tasks: list[str]) -> dict[str, int | float]:
  """`over_hosts` as metrics, over all tasks and, as NAME/TASK, of each."""
  seen, bad, dropped = totals.sum(axis=0).tolist()
  found = {
    'records_read': seen,
    'bad_records': bad,
    'dropped_records': dropped,
    'dropped_share': dropped / max(seen, 1),
  }
  for task, (seen, bad, dropped) in zip(tasks, totals.tolist()):
    found[f'records_read/{task}'] = seen
    found[f'bad_records/{task}'] = bad
    found[f'dropped_records/{task}'] = dropped
  return found


def table(totals: np.ndarray, tasks: list[str]) -> str:
  """`over_hosts` as lines, of tasks not all of whose records were used."""
  return '\n'.join(
    f'  {task}: {bad} bad and {dropped} dropped of {seen} records read'
    for task, (seen, bad, dropped) in zip(tasks, totals.tolist())
    if bad or dropped
  )
