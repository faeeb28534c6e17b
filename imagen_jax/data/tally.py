"""Records that are not used: counted by task and reason.

Bad ones are damaged: they are listed, and too many of them stop a run. Dropped
ones are sound but of no use to the stage, as too small a picture is: how many
they are is worth knowing, but stops a run only where nothing else is there.
"""

import collections
import math
import threading

# Fewer records say nothing about a share, unless it is to be none.
MIN_SEEN = 100

_KEYS_KEPT = 5

# Bad records whose keys are kept for a file: what a person looks at, and a
# few hundred bytes each.
MAX_LISTED = 10_000

# How far above the limit a share must lie, in standard deviations. Each of a
# thousand hosts looks at its own records again and again: one at the limit
# must not stop the run by chance.
_DEVIATIONS = 5


def too_many(bad: int, seen: int, max_share: float) -> bool:
  """Returns whether `bad` of `seen` are clearly more than an accepted share."""
  allowed = max_share * seen
  enough = seen >= MIN_SEEN or not max_share
  return enough and bad > allowed + _DEVIATIONS * math.sqrt(allowed)


class Tally:
  """Counts of records read, bad and dropped; safe from several threads.

  Attributes:
    error: the ValueError with which the tally stopped the run, or None.
  """

  def __init__(self, max_bad_share: float):
    """Starts from zero.

    Args:
      max_bad_share: largest accepted share of bad records of a task among all
        that were read of it, in [0, 1].
    """
    self.error = None
    self._max_share = max_bad_share
    self._lock = threading.Lock()
    self._seen = collections.Counter()
    self._bad = collections.defaultdict(collections.Counter)
    self._dropped = collections.defaultdict(collections.Counter)
    self._keys = collections.defaultdict(dict)
    self._listed = {}

  def add_good(self, task: str):
    """Counts a record that could be used."""
    with self._lock:
      self._seen[task] += 1

  def add_bad(self, task: str, reason: str, key: str):
    """Counts a record that could not be used.

    Raises:
      ValueError: where the task's bad records are clearly more than the
        accepted share, with a table of all.
    """
    with self._lock:
      self._seen[task] += 1
      self._bad[task][reason] += 1
      keys = self._keys[task, reason]
      if len(keys) < _KEYS_KEPT:
        keys[key] = None
      if len(self._listed) < MAX_LISTED:
        self._listed[task, key] = reason
      bad, seen = self._bad[task].total(), self._seen[task]
      if too_many(bad, seen, self._max_share):
        self._stop(
          f'task {task!r}: {bad} of {seen} records are bad; accepted: a '
          f'share of data.max_bad_share ({self._max_share})'
        )

  def add_dropped(self, task: str, reason: str):
    """Counts a record that is sound, but of no use to the stage."""
    with self._lock:
      self._seen[task] += 1
      self._dropped[task][reason] += 1

  def add_hopeless(self, task: str, split: str, tried: int):
    """Stops the run: of so many records of a task, none can be used.

    Raises:
      ValueError: always, with a table of all.
    """
    with self._lock:
      self._stop(
        f'task {task!r}: none of {tried} records of {split!r} can be used; '
        'accepted: usable ones among them'
      )

  def _stop(self, message):
    tables = filter(None, [self._table(), self._dropped_table()])
    self.error = ValueError('\n'.join([message, *tables]))
    raise self.error

  def counts(self) -> dict[str, dict]:
    """Returns {task: {'seen': n, 'bad': {reason: n}, 'dropped': the same}}.

    Bad and dropped ones are among the seen.
    """
    with self._lock:
      return {
        task: {
          'seen': seen,
          'bad': dict(self._bad[task]),
          'dropped': dict(self._dropped[task]),
        }
        for task, seen in sorted(self._seen.items())
      }

  def listed(self) -> list[dict[str, str]]:
    """Returns {'task', 'key', 'reason'} of the first bad records, once each."""
    with self._lock:
      return [
        {'task': task, 'key': key, 'reason': reason}
        for (task, key), reason in self._listed.items()
      ]

  def table(self) -> str:
    """Returns a line for each task and reason of bad records, with some keys.

    The keys are the first few.
    """
    with self._lock:
      return self._table()

  def dropped_table(self) -> str:
    """Returns a line for each task and reason of dropped records, with shares.

    A share is of all records that were read of the task.
    """
    with self._lock:
      return self._dropped_table()

  def _dropped_table(self):
    return '\n'.join(
      f'  {task}: {reason}: {count} of {self._seen[task]} '
      f'({count / self._seen[task]:.1%})'
      for task, reasons in sorted(self._dropped.items())
      for reason, count in sorted(reasons.items())
    )

  def _table(self):
    lines = []
    for (task, reason), keys in sorted(self._keys.items()):
      count = self._bad[task][reason]
      more = ', ...' if _KEYS_KEPT == len(keys) < count else ''
      lines.append(f'  {task}: {reason}: {count} ({", ".join(keys)}{more})')
    return '\n'.join(lines)
