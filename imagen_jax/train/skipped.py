"""Records that a host met, by key, as a file of JSON lines in the workdir.

Bad ones are in `skipped/`, those of steps that went wrong in `passed/`.

Each host has a file of its own, since what is wrong with some of the data is
seen by some hosts alone. It is bounded, and goes on over resumes.
"""

import json
import logging

from imagen_jax import storage
from imagen_jax.data import tally as tally_lib

FOLDER = 'skipped'


class Skipped:
  """The file of one host.

  Args:
    workdir: of the run.
    host: number of this one; what one of that number has listed is read.
    folder: of the files of all hosts.
    by: fields of an entry that are listed once.
  """

  def __init__(
    self,
    workdir: str,
    host: int,
    *,
    folder: str = FOLDER,
    by: tuple[str, ...] = ('task', 'key'),
  ):
    self._path = storage.Path(workdir) / folder / f'{host:05d}.jsonl'
    self._by, self._known = by, {}
    if self._path.exists():
      for line in self._path.read_bytes().splitlines():
        try:
          entry = json.loads(line)
          self._known[self._name(entry)] = entry
        except (ValueError, KeyError, TypeError):
          continue  # The process was killed while it wrote this one.

  def _name(self, entry):
    return tuple(entry[field] for field in self._by)

  def write(self, listed: list[dict[str, str]]) -> None:
    """Writes the file anew, where there is something new in `listed`.

    A workdir that cannot be written for a moment is told, and is no reason to
    end the run: what is listed is written with the next checkpoint.

    Args:
      listed: entries, as of `data.tally.Tally.listed`.
    """
    known = dict(self._known)
    for entry in listed:
      if len(known) >= tally_lib.MAX_LISTED:
        break
      known.setdefault(self._name(entry), entry)
    if len(known) == len(self._known):
      return
    text = ''.join(json.dumps(entry) + '\n' for entry in known.values())
    try:
      storage.write(self._path, text.encode(), '--workdir')
    except ValueError as error:
      logging.warning('%s', error)
      return
    self._known = known
