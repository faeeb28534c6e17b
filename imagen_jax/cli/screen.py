"""What a command tells people, which is no reason to end it."""

import contextlib
import io
import sys


class _Forgiving(io.TextIOBase):
  """A stream that drops what cannot be written."""

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text):
    with contextlib.suppress(OSError):
      self._stream.write(text)
    return len(text)

  def flush(self):
    with contextlib.suppress(OSError):
      self._stream.flush()

  def isatty(self):
    return self._stream.isatty()

  def fileno(self):
    return self._stream.fileno()


@contextlib.contextmanager
def forgiven():
  """Within it, what stderr does not take is lost, and no error.

  It may be a log on a disk that is full, or a terminal that is gone, and a run
  for months would end by its progress bar.
  """
  with contextlib.redirect_stderr(_Forgiving(sys.stderr)):
    yield
