"""Bad records: counted by task and reason, listed, and a reason to stop."""

import collections
import math
import threading

# Fewer records say nothing about a share, unless it is to be none.
MIN_SEEN = 100

_KEYS_KEPT = 5

# How far above the limit a share must lie, in standard deviations. Each of a
# thousand hosts looks at its own records again and again: one at the limit
# must not stop the run by chance.
_DEVIATIONS = 5


class Tally:
  """Counts of records read and found bad; safe from several threads.

  Attributes:
    error: the ValueError with which the tally stopped the run, or None.
  """

  def __init__(self, max_bad_share: float):
    """Starts from zero.

    Args:
      max_bad_share: largest accepted share of bad records of a task, in [0, 1].
    """
    self.error = None
    self._max_share = max_bad_share
    self._lock = threading.Lock()
    self._seen = collections.Counter()
    self._bad = collections.defaultdict(collections.Counter)
    self._keys = collections.defaultdict(dict)

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
      bad, seen = self._bad[task].total(), self._seen[task]
      allowed = self._max_share * seen
      enough = seen >= MIN_SEEN or not self._max_share
      if enough and bad > allowed + _DEVIATIONS * math.sqrt(allowed):
        self._stop(
          f'task {task!r}: {bad} of {seen} records are bad; accepted: a '
          f'share of data.max_bad_share ({self._max_share})'
        )

  def add_hopeless(self, task: str):
    """Stops the run: every record of an epoch of `task` is bad.

    Raises:
      ValueError: always, with a table of all.
    """
    with self._lock:
      self._stop(f'task {task!r}: every record is bad; accepted: usable ones')

  def _stop(self, message):
    self.error = ValueError(f'{message}\n{self._table()}')
    raise self.error

  def counts(self) -> dict[str, dict]:
    """Returns {task: {'seen': n, 'bad': {reason: n}}}."""
    with self._lock:
      return {
        task: {'seen': seen, 'bad': dict(self._bad[task])}
        for task, seen in sorted(self._seen.items())
      }

  def table(self) -> str:
    """Returns a line for each task and reason, with the first few keys."""
    with self._lock:
      return self._table()

  def _table(self):
    lines = []
    for (task, reason), keys in sorted(self._keys.items()):
      count = self._bad[task][reason]
      more = ', ...' if _KEYS_KEPT == len(keys) < count else ''
      lines.append(f'  {task}: {reason}: {count} ({", ".join(keys)}{more})')
    return '\n'.join(lines)
