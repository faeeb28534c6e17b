"""Faults at random over a run of two processes, as two hosts of a pod.

    export TEST_WORKERS=0 FAULTS=20 SEED=0
    bash launch/test.sh -m slow tests/faults/test_hosts.py

One of them is killed, frozen or told to stop, and the other has to end by
itself; or both meet a full disk, or a damaged checkpoint.
"""

import os
import signal
import time

import fault_campaign
import numpy as np
import pytest

from imagen_jax.cli import devices

pytestmark = pytest.mark.slow

FAULTS = int(os.environ.get('FAULTS', '3'))
SEED = int(os.environ.get('SEED', '0'))
STEPS_A_FAULT = 6
KINDS = (
  'kill one',
  'freeze one',
  'SIGTERM to one',
  'full disk',
  *fault_campaign.HARM,
)
DEAD_AFTER = 15
# Seconds for what is left to be done: a barrier, and a crowded machine.
ALONE = DEAD_AFTER + 45


def fault(run, kind, rng):
  """Starts the processes of the run, and lets a fault meet one or both.

  Returns:
    Seconds from the start to the first step, and from the fault until the
    other process had ended; None where the run was at its end before.
  """
  before, begun = run.step(), time.monotonic()
  run.start()
  # A run that resumes has first cut the steps after its checkpoint.
  assert run.until(lambda: run.step() != before), run.said()
  took = time.monotonic() - begun
  goal = run.step() + rng.integers(1, 2 * STEPS_A_FAULT)
  run.until(lambda: run.step() >= goal)
  if run.ended():
    run.end()
    return took, None
  which = int(rng.integers(2))
  begun = time.monotonic()
  if kind == 'SIGTERM to one':
    run.kill(signal.SIGTERM, which)
    status = run.end(ALONE)
    assert status in ([128 + signal.SIGTERM] * 2, [0, 0]), run.said()
  elif kind in ('kill one', 'freeze one'):
    frozen = kind == 'freeze one'
    run.kill(signal.SIGSTOP if frozen else signal.SIGKILL, which)
    other = run.processes[1 - which]
    other.join(ALONE)
    assert other.exitcode in (devices.OTHERS_GONE, -signal.SIGABRT), run.said()
  elif kind == 'full disk':
    run.full_disk(rng)
  took = took, time.monotonic() - begun
  fault_campaign.leave(run, kind, rng)
  return took


def test_no_fault_of_one_host_changes_a_run(tiny, disk, capsys):
  # So many that no run is at its end before its last fault.
  num_steps = 3 * STEPS_A_FAULT * FAULTS
  rng = np.random.default_rng(SEED)
  more = {'count': 2, 'flags': ['--dead-after', str(DEAD_AFTER)]}
  calm = fault_campaign.Run(
    tiny, disk.folder / 'calm', num_steps, num_steps, disk, **more
  )
  calm.start()
  assert calm.finish() == [0, 0], calm.said()
  run = fault_campaign.Run(
    tiny, disk.folder / 'run', num_steps, 3, disk, **more
  )
  met = {kind: [] for kind in KINDS}
  kinds = [KINDS[n % len(KINDS)] for n in rng.permutation(FAULTS)]
  begun = time.monotonic()
  for kind in kinds:
    before = run.step()
    took = fault(run, kind, rng)
    met[kind].append((run.step() - before, *took))
    with capsys.disabled():
      print(f'{kind}: at step {run.step()} of {num_steps}', flush=True)
  run.start()
  assert run.finish() == [0, 0], run.said()
  each = (time.monotonic() - begun) / FAULTS
  fault_campaign.assert_unharmed(run, calm, num_steps)
  columns = ('steps until it', 'seconds to the first', 'until all had ended')
  with capsys.disabled():
    print(f'\n{FAULTS} faults with seed {SEED}, over {num_steps} steps', end='')
    print(f'; {each:.1f} seconds a fault, until the run had gone on')
    print(fault_campaign.table(run, met, columns))
