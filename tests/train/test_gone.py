"""Of several processes one is killed, or fails: the others end soon."""

import re
import signal
import sys

import host_runs
import pytest

from imagen_jax.cli import devices

pytestmark = pytest.mark.slow
ENDLESS = ('train.num_steps=1000000', 'train.checkpoint_every=2')
SECONDS = 60  # Until all must have ended.

# The second process fails in its third step.
FAILS = """
import sys
from imagen_jax.train import metrics
advance, done = metrics.MetricWriter.advance, []
def fail(self):
  advance(self)
  done.append(0)
  if len(done) == 3 and sys.argv[-1] == '1':
    raise RuntimeError('a fault of this host')
metrics.MetricWriter.advance = fail
"""


@pytest.mark.parametrize('which, count', [(1, 2), (0, 2), (2, 4)])
def test_where_one_is_killed_the_others_end(which, count, tiny, runs, tmp_path):
  """And say which; what was saved is there to go on from."""
  workdir = tmp_path / 'run'
  with host_runs.started(
    tiny,
    workdir,
    *ENDLESS,
    count=count,
    each=1,
    flags=['--dead-after', '20'],
  ) as hosts:
    hosts.until(lambda: (workdir / 'checkpoints' / '2').exists())
    hosts.kill(which)
    status = hosts.finish(SECONDS)
  said = hosts.said()
  assert status.pop(which) == -signal.SIGKILL
  said.pop(which)
  # Or JAX itself has ended it, which names a task: in a word of its error, or
  # in a list of numbers, one a line.
  assert set(status) <= {devices.OTHERS_GONE, -signal.SIGABRT}, said
  named = (
    rf'no word of host [\d, ]*\b{which}\b|task:{which}\b'
    rf'|stopped sending heartbeats\):\s*(\d+\s+)*{which}\b'
  )
  if which == 0:
    named += '|coordination service|leader'
  for text in said:
    assert re.search(named, text), text
  assert runs.steps(workdir)


def test_where_one_fails_the_others_end(tiny, tmp_path):
  with host_runs.started(
    tiny, tmp_path / 'run', *ENDLESS, each=1, before=FAILS
  ) as hosts:
    status = hosts.finish(host_runs.PATIENCE)
  first, second = hosts.said()
  assert status[1] == devices.OTHERS_GONE, (first, second)
  assert status[0] in (devices.OTHERS_GONE, -signal.SIGABRT), first
  assert 'RuntimeError: a fault of this host' in second
  assert sys.executable not in second
