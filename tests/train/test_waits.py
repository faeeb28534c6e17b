"""What a run says of waiting for data."""

import dataclasses
import os

import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import waits as waits_lib

TASKS = tuple(
  config_lib.TaskConfig(kind, 'p', kind=kind) for kind in ('tfds', 'parquet')
)
DATA = config_lib.DataConfig(tasks=TASKS, prefetch=3)


class Clock:
  seconds = 100.0

  def __call__(self):
    return self.seconds


def run(share, seconds, step=10.0, data=DATA):
  """Metrics and warnings of a run that waits for a share of its time."""
  clock = Clock()
  waits, waited = waits_lib.Waits(data, clock), 0.0
  metrics, said = [], []
  for _ in range(int(seconds / step)):
    clock.seconds += step
    waited += share * step
    found, warning = waits.measure(waited)
    metrics.append(found)
    said += [warning] if warning else []
  return metrics, said


def test_the_share_is_of_the_time_between_two_lines():
  clock = Clock()
  waits = waits_lib.Waits(DATA, clock)
  for waited, share in ((1.0, 0.1), (6.0, 0.5), (6.0, 0.0)):
    clock.seconds += 10
    found, _ = waits.measure(waited)
    assert found['data_wait_share'] == pytest.approx(share)
  assert found['data_wait_seconds'] == 0.0


def test_threads_are_advised_above_those_that_there_are():
  data = dataclasses.replace(DATA, threads=7)
  assert 'data.threads above 7 of' in run(0.25, 60, data=data)[1][0]


def test_a_run_that_waits_little_says_nothing():
  assert run(0.09, 10_000)[1] == []


def test_a_run_that_waits_is_told_what_helps_in_one_line():
  _, said = run(0.25, 60)
  (line,) = said
  assert line.startswith(
    '25% of the last 60 s were spent waiting for data, by host 0; what helps: '
  )
  assert 'data.prefetch above 3' in line
  cores = len(os.sched_getaffinity(0))
  assert f'data.threads above {max(1, cores // 2)} of {cores} cores' in line
  assert 'data.tasks[parquet]: write ArrayRecord' in line
  assert 'data.tasks[tfds]' not in line and 'dct_scaling' not in line
  assert '\n' not in line
  (line,) = run(0.25, 60, data=dataclasses.replace(DATA, dct_scaling=None))[1]
  assert 'data.dct_scaling=1.5 (None now)' in line


def test_warnings_become_rare():
  """After 1, 3, 7, 15 ... minutes; a week has a dozen and one."""
  assert len(run(0.5, 59)[1]) == 0
  assert len(run(0.5, 179)[1]) == 1
  assert len(run(0.5, 180)[1]) == 2
  assert len(run(0.5, 7 * 86400, step=60.0)[1]) == 13


def test_a_first_second_of_waiting_is_no_reason_to_warn():
  clock = Clock()
  waits = waits_lib.Waits(DATA, clock)
  clock.seconds += 2
  found, said = waits.measure(1.0)
  assert found['data_wait_share'] == 0.5 and not said
  clock.seconds += 100
  assert waits.measure(1.0)[1] == ''


def test_the_host_that_waits_longest_counts(monkeypatch):
  monkeypatch.setattr(waits_lib.jax, 'process_count', lambda: 3)
  monkeypatch.setattr(
    waits_lib.multihost_utils,
    'process_allgather',
    lambda mine: np.stack([mine, mine + 0.4, mine + 0.1]),
  )
  metrics, (line,) = run(0.0, 60)
  assert metrics[0]['data_wait_share'] == pytest.approx(0.4)
  assert line.startswith('40% of the last 60 s') and 'by host 1' in line
