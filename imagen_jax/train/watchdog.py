"""Tells where a run stands when it does not move: the stacks of all threads.

A pod that hangs says nothing by itself; what each host was waiting for says
which of them is to blame.
"""

import collections
import statistics
import sys
import threading
import time
import traceback

from imagen_jax import storage

FOLDER = 'stacks'

# Steps whose median says how long one takes.
_REMEMBERED = 100
# Seconds that are never too long: compiling, sampling, saving, storage.
_FLOOR = 300.0
# How often the thread looks, as a share of the floor.
_LOOKS = 20


class Watchdog:
  """A thread that dumps all stacks when no step ends for too long.

  That is `factor` times the median of a step, or five minutes if that is more;
  then twice as long, and so on, until a step ends. The run is left alone: who
  waits for a slow bucket may go on. Use as a context manager.

  Args:
    workdir: gets `stacks/HOST-STEP.txt`; they go to stderr, too.
    host: number of this one.
    factor: medians until a step is taken for hanging; 0 turns it off.
    floor: seconds, in the place of five minutes.
  """

  def __init__(
    self, workdir: str, host: int, factor: float, *, floor: float = _FLOOR
  ):
    self._folder = storage.Path(workdir) / FOLDER
    self._host, self._factor, self._floor = host, factor, floor
    self._seconds = collections.deque(maxlen=_REMEMBERED)
    self._step, self._since = None, time.monotonic()
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self):
    if self._factor:
      self._thread.start()
    return self

  def __exit__(self, *_):
    self._closed.set()
    if self._factor:
      self._thread.join()

  def beat(self, step: int):
    """Says that a step has ended, with all that is done after it."""
    now = time.monotonic()
    # The first one is compiled, and tells nothing.
    if self._step is not None:
      self._seconds.append(now - self._since)
    self._step, self._since = step, now

  def limit(self) -> float:
    """Seconds until a step is taken for hanging."""
    seconds = list(self._seconds)
    median = statistics.median(seconds) if seconds else 0
    return max(self._floor, self._factor * median)

  def _watch(self):
    since, times = None, 1
    while not self._closed.wait(self._floor / _LOOKS):
      if since != self._since:
        since, times = self._since, 1
      passed = time.monotonic() - since
      if passed > times * self.limit():
        times *= 2
        self._dump(passed)

  def _dump(self, passed):
    stacks = _stacks()
    after = 'the start' if self._step is None else f'step {self._step}'
    text = (
      f'imagen-jax: host {self._host}: no step has ended for {passed:.0f} s '
      f'after {after}; the stacks of its threads, innermost call last:\n'
      f'{stacks}'
    )
    print(text, file=sys.stderr, flush=True)
    name = f'{self._host:05d}-{self._step or 0:08d}.txt'
    try:
      storage.write(self._folder / name, text.encode(), '--workdir')
    except ValueError as error:
      print(f'imagen-jax: {error}', file=sys.stderr)


def _stacks():
  """The stacks of all threads as text, the main one's first."""
  # faulthandler would leave out all but a hundred, the main one among them.
  frames = sys._current_frames()
  main = threading.main_thread()
  threads = [main, *(each for each in threading.enumerate() if each != main)]
  return ''.join(
    f'\nthread {each.name!r}:\n'
    + ''.join(traceback.format_stack(frames[each.ident]))
    for each in threads
    if each.ident in frames
  )
