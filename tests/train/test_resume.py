"""Runs that are killed, in a process of their own, and go on in this one."""

import signal
import subprocess
import sys

import fault_run
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import advance
from imagen_jax.train import loop

pytestmark = pytest.mark.usefixtures('same_programs')

_DIE = 'os.kill(os.getpid(), signal.SIGKILL)'
KILLS = {
  # After step 5: a line is half an interval away, a checkpoint a step.
  'in a step': f"""
advance = metrics.MetricWriter.advance
def count(self):
  advance(self)
  done.append(0)
  if len(done) == 5:
    {_DIE}
metrics.MetricWriter.advance = count
""",
  # The arrays of step 4 are written, and not yet the mark that all are.
  'in a save': f"""
finalize = ocp.PyTreeCheckpointHandler.finalize
def count(self, directory):
  done.append(0)
  if len(done) == 2:
    {_DIE}
  finalize(self, directory)
ocp.PyTreeCheckpointHandler.finalize = count
""",
  # The files of step 4 are being written in the background.
  'after a save began': f"""
save = checkpoint.Checkpointer.save
def count(self, *args):
  save(self, *args)
  done.append(0)
  if len(done) == 2:
    {_DIE}
checkpoint.Checkpointer.save = count
""",
}
BEFORE = """
import os, signal
import orbax.checkpoint as ocp
from imagen_jax.train import checkpoint, metrics
done = []
"""
COMMAND = """
import sys
from imagen_jax.cli import main
sys.exit(main.main(sys.argv[1:]))
"""


def command(tiny, workdir):
  flags = ['train', '--config', tiny, '--workdir', str(workdir)]
  for each in ('mesh.simulated_devices=8', 'train.checkpoint_every=2'):
    flags += ['--set', each]
  return flags


def go_on(tiny, workdir, trained, runs):
  cfg = config_lib.override(config_lib.load(tiny), ['train.checkpoint_every=2'])
  assert loop.train(cfg, str(workdir)) == advance.Outcome(8, None)
  runs.assert_same(workdir, trained, 8)


def test_killed_in_a_save(tiny, trained, runs, tmp_path, capfd):
  script = BEFORE + KILLS['in a save'] + COMMAND
  done = subprocess.run(
    [sys.executable, '-c', script, *command(tiny, tmp_path)],
    capture_output=True,
    text=True,
  )
  said = done.stderr
  assert done.returncode == -signal.SIGKILL, said
  # Our own lines alone, save that Orbax finds these checkpoints too frequent.
  strange = [
    line
    for line in said.splitlines()
    if line.strip() and 'tiny16: ' not in line and 'previous save' not in line
  ]
  assert not strange
  assert runs.steps(tmp_path) == [2]
  left = [path.name for path in (tmp_path / 'checkpoints').iterdir()]
  assert len(left) == 2, left
  assert [line['step'] for line in runs.metrics(tmp_path)][:2] == [2, 4]
  go_on(tiny, tmp_path, trained, runs)
  assert runs.steps(tmp_path) == [4, 6, 8]
  assert 'resuming from step 2 of 8' in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('how', ['in a step', 'after a save began'])
def test_killed(how, tiny, trained, runs, tmp_path):
  log = tmp_path / 'log'
  process = fault_run.start(
    fault_run.context(),
    command(tiny, tmp_path),
    str(log),
    BEFORE + KILLS[how],
  )
  process.join()
  assert process.exitcode == -signal.SIGKILL, log.read_text()
  assert runs.steps(tmp_path)[-1] in (2, 4)
  go_on(tiny, tmp_path, trained, runs)
