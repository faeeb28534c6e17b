"""Traces of a few steps for xprof, as asked for or at SIGUSR1."""

import pathlib
import signal
import tempfile

import jax

from imagen_jax import storage

FOLDER = 'profile'

# Steps that a trace has which a signal asks for.
_AT_SIGNAL = 5


class Profiler:
  """Writes traces of steps to `WORKDIR/profile`, each host its own.

  SIGUSR1 asks for a trace of the next five steps of this process, at any time.
  Use as a context manager, in the main thread.

  Args:
    workdir: of the run; local or a bucket.
    steps: first and last step of a trace; None for none.
    say: is given a line when a trace is written.
  """

  def __init__(self, workdir: str, steps: tuple[int, int] | None, say):
    self._folder = storage.Path(workdir) / FOLDER
    self._steps, self._say = steps, say
    self._asked = False
    self._first = self._last = None
    self._kept = None

  def __enter__(self):
    self._old = signal.signal(signal.SIGUSR1, self._ask)
    return self

  def __exit__(self, *_):
    signal.signal(signal.SIGUSR1, self._old)
    self._stop(None)

  def _ask(self, *_):
    self._asked = True

  def before(self, step: int):
    """To be called before a step is started; starts a trace where it is due."""
    if self._last is not None:
      return
    if self._asked:
      self._asked = False
      self._first, self._last = step, step + _AT_SIGNAL - 1
    elif self._steps and self._steps[0] <= step <= self._steps[1]:
      self._first, self._last = step, self._steps[1]
    else:
      return
    # The profiler writes to no bucket.
    self._kept = tempfile.TemporaryDirectory(prefix='imagen_jax_')
    jax.profiler.start_trace(self._kept.name)

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
    jax.block_until_ready(result)
    jax.profiler.stop_trace()
    # What stops it may be an error, before the last step.
    name = f'steps_{self._first:08d}_{self._last:08d}'
    found = pathlib.Path(self._kept.name)
    for path in found.rglob('*'):
      if path.is_file():
        target = self._folder / name / path.relative_to(found).as_posix()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    self._kept.cleanup()
    self._first = self._last = self._kept = None
    self._say(f'trace written: {self._folder / name} (xprof shows it)')
