"""Stopping a run in good order when it is asked to."""

import os
import signal

import jax
from jax.experimental import multihost_utils


class Stopper:
  """Learns of SIGTERM and Ctrl-C, and has all hosts stop after one step.

  On one host a handler notes the signal. On several, JAX's preemption service
  notes a SIGTERM on any of them and agrees on a step that all will reach;
  Ctrl-C is passed on as SIGTERM. Use as a context manager, in the main thread.
  """

  def __init__(self):
    self._signal = None
    self._old = {}
    self._asked = 0

  def __enter__(self):
    several = jax.process_count() > 1
    self._install(signal.SIGINT, self._pass_on if several else self._note)
    if not several:
      self._install(signal.SIGTERM, self._note)
    return self

  def __exit__(self, *_):
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def _install(self, number, handler):
    self._old[number] = signal.signal(number, handler)

  def _note(self, number, _):
    if self._signal == number == signal.SIGINT:
      raise KeyboardInterrupt  # Asked twice: now.
    self._signal = number
    if number == signal.SIGINT:
      # Not by print, which a handler may not interrupt itself in.
      os.write(2, b'\nstopping after this step; Ctrl-C again stops at once\n')

  def _pass_on(self, *_):
    os.kill(os.getpid(), signal.SIGTERM)

  def should_stop(self) -> int | None:
    """The signal to stop for after a step, the same on all hosts, or None."""
    if jax.process_count() > 1:
      # A number that only grows, as a step's does not where a run rewinds.
      self._asked += 1
      if multihost_utils.reached_preemption_sync_point(self._asked):
        return signal.SIGTERM
      return None
    return self._signal
