"""Faults at random over one run, each gone on from, and nothing is lost.

    TEST_WORKERS=0 FAULTS=100 SEED=0 bash launch/test.sh -m slow tests/faults

prints a table of what was done to the run and what it cost.
"""

import os
import signal
import time

import fault_campaign
import numpy as np
import pytest

pytestmark = pytest.mark.slow

FAULTS = int(os.environ.get('FAULTS', '6'))
SEED = int(os.environ.get('SEED', '0'))
STEPS_A_FAULT = 16
KINDS = (
  'kill',
  'kill in a save',
  'SIGTERM',
  'SIGINT',
  'freeze, kill',
  'full disk',
  *fault_campaign.HARM,
)


def fault(run, kind, rng):
  """Starts a process of the run, and lets a fault meet it.

  Returns:
    Seconds from the start to its first step; None where it made none.
  """
  before, begun = run.step(), time.monotonic()
  run.start()
  if rng.random() < 0.1:  # Anywhere on its way to the first step.
    time.sleep(rng.uniform(0, 4))
    took = None
  else:
    # A run that resumes has first cut the steps after its checkpoint.
    assert run.until(lambda: run.step() != before), run.said()
    took = time.monotonic() - begun
    goal = run.step() + rng.integers(1, 2 * STEPS_A_FAULT)
    run.until(lambda: run.step() >= goal)
  if run.ended():
    return took
  if kind in ('SIGTERM', 'SIGINT'):
    run.kill(getattr(signal, kind))
    (status,) = run.end()
    assert status in (128 + 15, 128 + 2, 0, -2, -15), run.said()
    return took
  if kind == 'kill in a save':
    run.until(run.saving)
  if kind == 'freeze, kill':
    run.kill(signal.SIGSTOP)
    time.sleep(rng.uniform(0, 1))
  if kind == 'full disk':
    run.full_disk(rng)
  fault_campaign.leave(run, kind, rng)
  return took


def test_no_fault_changes_a_run(tiny, disk, capsys):
  num_steps = STEPS_A_FAULT * FAULTS
  rng = np.random.default_rng(SEED)
  calm = fault_campaign.Run(
    tiny, disk.folder / 'calm', num_steps, num_steps, disk
  )
  calm.start()
  assert calm.finish() == [0], calm.said()
  run = fault_campaign.Run(tiny, disk.folder / 'run', num_steps, 5, disk)
  met = {kind: [] for kind in KINDS}
  kinds = [KINDS[n % len(KINDS)] for n in rng.permutation(FAULTS)]
  begun = time.monotonic()
  for kind in kinds:
    before = run.step()
    took = fault(run, kind, rng)
    met[kind].append((run.step() - before, took))
    with capsys.disabled():
      print(f'{kind}: at step {run.step()} of {num_steps}', flush=True)
  run.start()
  assert run.finish() == [0], run.said()
  each = (time.monotonic() - begun) / FAULTS
  fault_campaign.assert_unharmed(run, calm, num_steps)
  columns = ('steps until it', 'seconds to the first')
  with capsys.disabled():
    print(f'\n{FAULTS} faults with seed {SEED}, over {num_steps} steps', end='')
    print(f'; {each:.1f} seconds a fault, until the run had gone on')
    print(fault_campaign.table(run, met, columns))
