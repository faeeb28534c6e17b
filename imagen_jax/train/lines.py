"""A file of lines that is only added to, and that a full disk costs none of."""

import os

# Lines that wait for a disk that is full; more are lost.
_WAITING = 10_000


class Lines:
  """A file of lines, each of which is in it whole, or waits to be.

  Args:
    path: of the file, an `epath.Path`; local. A last line that is not whole is
      cut: its process was killed while it wrote it.
  """

  def __init__(self, path):
    self._path, self._waiting = path, []
    data = path.read_bytes() if path.is_file() else b''
    if data and not data.endswith(b'\n'):
      os.truncate(path, data.rfind(b'\n') + 1)

  def read(self) -> list[str]:
    """The lines that are in the file."""
    return self._path.read_text().splitlines() if self._path.is_file() else []

  def add(self, line: str):
    """Has a line wait, to be written by `write`."""
    self._waiting = [*self._waiting[-_WAITING:], line + '\n']

  def write(self):
    """Writes the lines that wait, or leaves the file as it was.

    Raises:
      OSError: where they cannot be written; they wait on.
    """
    if not self._waiting:
      return
    size = self._path.stat().length if self._path.is_file() else 0
    try:
      with self._path.open('a') as file:
        file.write(''.join(self._waiting))
    except OSError:
      if self._path.is_file():
        os.truncate(self._path, size)
      raise
    self._waiting = []
