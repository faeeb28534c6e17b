"""Means of metrics over the steps between two lines of them."""

import math
import time

import jax
import numpy as np


class Interval:
  """Means of the device's metrics over the steps between two log lines.

  Args:
    batch_size: of a step, for the rate.
    kept: from `state`, where a run resumes within an interval.
  """

  def __init__(self, batch_size: int, kept: list[dict] = ()):
    self._batch_size = batch_size
    self._steps = list(kept)
    self._restart()

  def _restart(self):
    self._since = len(self._steps)
    self._start = time.perf_counter()

  def add(self, metrics: dict):
    """Keeps one step's metrics, on the device."""
    self._steps.append(metrics)

  def state(self) -> list[dict]:
    """What was kept, fetched: numbers, or lists, that JSON can hold exactly."""
    # All at once: to wait for one number after another takes a round trip to
    # the device for each of some hundreds.
    self._steps = [
      {name: np.asarray(value).tolist() for name, value in metrics.items()}
      for metrics in jax.device_get(self._steps)
    ]
    return list(self._steps)

  def flush(self) -> dict[str, float]:
    """Means of what was kept, which is then forgotten; adds the rate.

    The mean of a bucket of time is over the steps that drew an example of it;
    of a metric that a step has not, over those that have it. Steps that left
    the state as it was are counted, and in no mean.
    """
    steps = self.state()
    seconds = time.perf_counter() - self._start
    done = sum('loss' in step for step in steps[self._since :])
    self._steps = []
    self._restart()
    means = {}
    # Of one that was judged, 'bad' says how; one passed over has nothing else.
    if any('bad' in step for step in steps):
      every, steps = steps, [step for step in steps if not step.pop('bad', 0)]
      means['skipped_steps'] = len(every) - len(steps)
    for name in {name: None for step in steps for name in step}:
      values = np.array([step[name] for step in steps if name in step])
      if name.startswith('loss_t'):
        values = values[~np.isnan(values)]
      mean = values.mean(axis=0).tolist() if values.size else math.nan
      means[name] = mean
    means['images_per_second'] = self._batch_size * done / seconds
    return means
