"""How much of a run is spent waiting for data, and what would change that."""

from collections.abc import Callable
import os
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from imagen_jax import config as config_lib
from imagen_jax.data import pipeline

# A share of the time that is worth a word.
_MUCH = 0.1

# Seconds over which the share is taken, at first; twice as many after each
# warning, so that a run of weeks has a dozen of them.
_WINDOW = 60.0

_OF_KIND = {
  'parquet': 'write ArrayRecord, or Parquet with row groups of a few rows',
  'folder': 'pack the folder by `imagen-jax data build`',
}


class Waits:
  """Shares of the time that hosts wait for their batches.

  Every host steps when the slowest one does, so that it is the host that waits
  longest that counts, which need not be the first.
  """

  def __init__(
    self,
    data: config_lib.DataConfig,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Starts the clock.

    Args:
      data: what is read, for advice.
      clock: returns seconds.
    """
    self._data, self._clock = data, clock
    self._before = self._since = clock()
    self._waited = self._waited_since = 0.0
    self._window = _WINDOW

  def measure(self, wait_seconds: float) -> tuple[dict[str, float], str]:
    """Returns metrics of the time since the last call, and a warning or ''.

    To be called on all hosts, at the same step.

    Args:
      wait_seconds: how long this host has waited, in all.

    Returns:
      `data_wait_seconds`, of this host, and `data_wait_share`, of the host that
      waited longest; and a line, where much was waited since the last one.
    """
    now = self._clock()
    waited = wait_seconds - self._waited
    found = [
      waited / max(now - self._before, 1e-9),
      (wait_seconds - self._waited_since) / max(now - self._since, 1e-9),
    ]
    shares = np.array(found, np.float32)[None]
    if jax.process_count() > 1:
      shares = np.reshape(multihost_utils.process_allgather(shares), (-1, 2))
    metrics = {
      'data_wait_seconds': waited,
      'data_wait_share': float(shares[:, 0].max()),
    }
    self._before, self._waited = now, wait_seconds
    if now - self._since < self._window:
      return metrics, ''
    host, share = int(shares[:, 1].argmax()), float(shares[:, 1].max())
    seconds = now - self._since
    self._since, self._waited_since = now, wait_seconds
    if share < _MUCH:
      return metrics, ''
    self._window *= 2
    return metrics, self._warning(share, seconds, host)

  def _warning(self, share, seconds, host):
    data = self._data
    cores = len(os.sched_getaffinity(0))
    threads = data.threads or pipeline.default_threads()
    advice = [
      f'data.threads above {threads} of {cores} cores (of the first host)',
      'more hosts, or cores of a host',
      'source pictures nearer to the size of the stage',
      f'data.prefetch above {data.prefetch} where reads are slow now and then',
    ]
    if data.dct_scaling is None or data.dct_scaling > 1.5:
      advice.append(f'data.dct_scaling=1.5 ({data.dct_scaling} now)')
    for task in data.tasks:
      if task.kind in _OF_KIND:
        advice.append(f'of data.tasks[{task.name}]: {_OF_KIND[task.kind]}')
    return (
      f'{share:.0%} of the last {seconds:.0f} s were spent waiting for data, '
      f'by host {host}; what helps: {"; ".join(advice)}'
    )
