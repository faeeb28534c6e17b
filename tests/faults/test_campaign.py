"""Faults at random over one run, each gone on from, and nothing is lost.

    FAULTS=100 SEED=0 bash launch/test.sh -m slow tests/faults

prints a table of what was done to the run and what it cost.
"""

import json
import os
import resource
import signal
import time

import compared
import fault_run
import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from imagen_jax.train import checkpoint

pytestmark = pytest.mark.slow

FAULTS = int(os.environ.get('FAULTS', '6'))
SEED = int(os.environ.get('SEED', '0'))
STEPS_A_FAULT = 16
PATIENCE = 600  # Seconds until a hang is called one.
HARM = ('flip', 'cut', 'gone')
KINDS = (
  'kill',
  'kill in a save',
  'SIGTERM',
  'SIGINT',
  'freeze, kill',
  'full disk',
  *HARM,
)


class Run:
  """One run, over the lives of its processes."""

  def __init__(self, tiny, workdir, num_steps, checkpoint_every):
    self.workdir, self.log = workdir, f'{workdir}.log'
    self.ctx = fault_run.context()
    self.argv = ['train', '--config', tiny, '--workdir', str(workdir)]
    for each in (
      'mesh.simulated_devices=2',
      f'train.num_steps={num_steps}',
      f'train.checkpoint_every={checkpoint_every}',
      'train.keep_checkpoints=6',
      'train.log_every=1',
    ):
      self.argv += ['--set', each]

  def start(self):
    self.process = fault_run.start(self.ctx, self.argv, self.log)

  def step(self):
    """The last step that is written down."""
    path = self.workdir / 'metrics.jsonl'
    lines = path.read_bytes().split(b'\n') if path.exists() else []
    return json.loads(lines[-2])['step'] if len(lines) > 1 else 0

  def saving(self):
    folder = self.workdir / 'checkpoints'
    return folder.exists() and any(folder.glob('*.orbax-checkpoint-tmp'))

  def until(self, condition):
    """Waits until it holds, or the process has ended; whether it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
      if self.process.exitcode is not None:
        return False
      assert time.monotonic() < deadline, self.said()
      time.sleep(0.005)
    return True

  def end(self):
    """Waits for the process; returns its exit status."""
    self.process.join(PATIENCE)
    assert self.process.exitcode is not None, self.said()
    return self.process.exitcode

  def kill(self, number):
    os.kill(self.process.pid, number)

  def said(self):
    with open(self.log) as file:
      return file.read()[-4000:]

  def checkpoints(self):
    folder = self.workdir / 'checkpoints'
    found = folder.iterdir() if folder.exists() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit())


def harm(run, how, rng):
  """Damages a file of the newest checkpoint, once there are others."""
  steps = run.checkpoints()
  if len(steps) < 3:
    return False
  folder = run.workdir / 'checkpoints' / str(steps[-1])
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  path = files[rng.integers(len(files))]
  data = bytearray(path.read_bytes())
  if how == 'flip' and data:
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)
  elif how == 'gone':
    path.unlink()
  else:
    os.truncate(path, len(data) // 2)
  return True


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
  if run.process.exitcode is not None:
    return took
  if kind in ('SIGTERM', 'SIGINT'):
    run.kill(getattr(signal, kind))
    assert run.end() in (128 + 15, 128 + 2, 0, -2, -15), run.said()
    return took
  if kind == 'kill in a save':
    run.until(run.saving)
  if kind == 'freeze, kill':
    run.kill(signal.SIGSTOP)
    time.sleep(rng.uniform(0, 1))
  if kind == 'full disk':
    # No file may grow beyond this, as if the disk were full; then it is not.
    pid, most = run.process.pid, resource.RLIM_INFINITY
    resource.prlimit(
      pid, resource.RLIMIT_FSIZE, (int(rng.integers(4096)), most)
    )
    time.sleep(rng.uniform(0.2, 2))
    if run.process.exitcode is None:
      resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
      goal = run.step() + 4
      run.until(lambda: run.step() >= goal)
  if run.process.exitcode is None:
    run.kill(signal.SIGKILL)
  run.end()
  if kind in HARM:
    harm(run, kind, rng)
  return took


def scalars(workdir):
  found = event_accumulator.EventAccumulator(
    str(workdir / 'tensorboard'), size_guidance={'scalars': 0}
  )
  events = found.Reload().Scalars('loss')
  return [(event.step, event.value) for event in events]


def test_no_fault_changes_a_run(tiny, tmp_path, capsys):
  num_steps = STEPS_A_FAULT * FAULTS
  rng = np.random.default_rng(SEED)
  calm = Run(tiny, tmp_path / 'calm', num_steps, num_steps)
  calm.start()
  assert calm.end() == 0, calm.said()
  run = Run(tiny, tmp_path / 'run', num_steps, 5)
  table = {kind: [] for kind in KINDS}
  kinds = [KINDS[n % len(KINDS)] for n in rng.permutation(FAULTS)]
  for kind in kinds:
    before = run.step()
    took = fault(run, kind, rng)
    table[kind].append((run.step() - before, took))
  run.start()
  assert run.end() == 0, run.said()

  compared.assert_same(run.workdir, calm.workdir, num_steps)
  assert scalars(run.workdir) == scalars(calm.workdir)
  lines = [
    f'{FAULTS} faults with seed {SEED}, over {num_steps} steps',
    'fault             times  steps until it  seconds to the first',
  ]
  for kind, met in table.items():
    steps = [n for n, _ in met]
    took = [seconds for _, seconds in met if seconds is not None]
    lines.append(
      f'{kind:16} {len(met):6} {np.mean(steps) if steps else 0:15.1f} '
      f'{np.mean(took) if took else 0:21.1f}'
    )
  damaged = run.workdir / checkpoint.DAMAGED
  count = len(list(damaged.iterdir())) if damaged.exists() else 0
  lines.append(f'damaged checkpoints that were set aside: {count}')
  with capsys.disabled():
    print('\n' + '\n'.join(lines))
  state = compared.state(run.workdir, num_steps)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
