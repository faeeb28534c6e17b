"""Traces of a few steps for xprof, as asked for or at SIGUSR1."""

import contextlib
import logging
import pathlib
import signal
import tempfile

import jax

from imagen_jax import storage

FOLDER = 'profile'

# Steps that a trace has which a signal asks for.
_AT_SIGNAL = 5


class Asker:
  """Notes SIGUSR1, which asks for a trace, until a `Profiler` begins it.

  By itself the signal would end a process: so this is there from a run's start,
  while it reads a checkpoint, compiles, or goes back to one. Use as a context
  manager, in the main thread.

  Attributes:
    asked: whether it was asked for.
  """

  def __init__(self):
    self.asked = False

  def __enter__(self):
    self._old = signal.signal(signal.SIGUSR1, self._ask)
    return self

  def __exit__(self, *_):
    signal.signal(signal.SIGUSR1, self._old)

  def _ask(self, *_):
    self.asked = True


class Profiler:
  """Writes traces of steps to `WORKDIR/profile`, each host its own.

  SIGUSR1 asks for a trace of the next five steps of this process, at any time.
  A trace that cannot be made or written is told, and ends nothing. Use as a
  context manager.

  Args:
    workdir: of the run; local or a bucket.
    steps: first and last step of a trace; None for none.
    say: is given a line when a trace is written.
    asker: learns of the signal.
  """

  def __init__(
    self, workdir: str, steps: tuple[int, int] | None, say, asker: Asker
  ):
    self._folder = storage.Path(workdir) / FOLDER
    self._steps, self._say, self._asker = steps, say, asker
    self._first = self._last = None
    self._kept = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._stop(None)

  def before(self, step: int):
    """To be called before a step is started; starts a trace where it is due."""
    if self._last is not None:
      return
    if self._asker.asked:
      self._asker.asked = False
      last = step + _AT_SIGNAL - 1
    elif self._steps and self._steps[0] <= step <= self._steps[1]:
      last = self._steps[1]
    else:
      return
    with contextlib.ExitStack() as begun:
      try:
        # The profiler writes to no bucket.
        folder = tempfile.TemporaryDirectory(prefix='imagen_jax_')
        begun.enter_context(folder)
        jax.profiler.start_trace(folder.name)
      # Of the system, or of the profiler, which may be somebody else's now.
      except (OSError, RuntimeError) as error:
        self._tell(error)
        self._steps = None  # Or the next step would try again.
        return
      begun.pop_all()
    self._kept = folder
    self._first, self._last = step, last

  def after(self, step: int, result):
    """To be called after a step is started; ends a trace where it is due.

    Args:
      step: as `before`.
      result: arrays that are ready when the step has ended.
    """
    if step == self._last:
      self._stop(result)

  def _stop(self, result):
    if self._last is None:
      return
    # What stops it may be an error, before the last step.
    name = f'steps_{self._first:08d}_{self._last:08d}'
    self._first = self._last = None
    jax.block_until_ready(result)
    try:
      jax.profiler.stop_trace()
      self._copy(self._folder / name)
    except (OSError, RuntimeError, ValueError) as error:
      self._tell(error)
    else:
      self._say(f'trace written: {self._folder / name} (xprof shows it)')
    finally:
      self._kept.cleanup()

  def _copy(self, target):
    found = pathlib.Path(self._kept.name)
    for path in found.rglob('*'):
      if path.is_file():
        place = target / path.relative_to(found).as_posix()
        storage.write(place, path.read_bytes(), '--workdir')

  def _tell(self, error):
    # By every host, each of which has a trace of its own.
    logging.warning('no trace was written: %s', error)
