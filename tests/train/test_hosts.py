"""Two processes of four simulated devices each, as two hosts of a pod."""

import contextlib
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import loop

pytestmark = pytest.mark.slow
PATIENCE = 600  # Seconds until a hang is called one.

# The command, in processes that count other records: of one task, so many read
# that they take more than 32 bits, and of the other, the first process none.
COUNTS = """
import sys
from imagen_jax.cli import main
from imagen_jax.data import tally
number = int(sys.argv[-1])
some = {'seen': 10**10 + number, 'bad': {}, 'dropped': {'small': 5 + number}}
same = {'seen': 100, 'bad': {'a': 2, 'b': 1}, 'dropped': {}}
counts = [{'some': some}, {'same': same, 'some': some}][number]
tally.Tally.counts = lambda self: counts
sys.exit(main.main(sys.argv[1:]))
"""


@contextlib.contextmanager
def started(tiny, workdir, *assignments, program=('-m', 'imagen_jax')):
  """Starts both processes of a run, and lets none of them stay."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  flags = ['--config', tiny, '--workdir', str(workdir)]
  for each in ('mesh.simulated_devices=4', 'mesh.fsdp=4', *assignments):
    flags += ['--set', each]
  flags += ['--coordinator', address, '--num-processes', '2']
  with contextlib.ExitStack() as stack:
    processes = []
    for number in range(2):
      file = stack.enter_context(open(f'{workdir}.{number}', 'w'))
      argv = [sys.executable, *program, 'train', *flags]
      process = subprocess.Popen(
        [*argv, '--process-id', str(number)], stderr=file
      )
      stack.callback(process.wait)
      stack.callback(process.kill)
      processes.append(process)
    yield processes


def said(workdir):
  """What each process has written to stderr."""
  return [
    pathlib.Path(f'{workdir}.{number}').read_text() for number in range(2)
  ]


def finish(processes):
  """Waits for both; returns their exit statuses."""
  return [process.wait(PATIENCE) for process in processes]


def wait_for_metrics(workdir, processes):
  """Returns when the first line is written."""
  deadline = time.monotonic() + PATIENCE
  file = workdir / 'metrics.jsonl'
  while not (file.exists() and file.read_text()):
    assert time.monotonic() < deadline
    assert not any(process.poll() for process in processes), said(workdir)
    time.sleep(0.2)


def test_two_processes_compute_what_one_does(tiny, trained, runs, tmp_path):
  workdir = tmp_path / 'run'
  options = {'program': ('-c', COUNTS)}
  with started(tiny, workdir, 'train.sample_every=8', **options) as processes:
    assert finish(processes) == [0, 0], said(workdir)
  first, second = said(workdir)
  assert 'mesh (data 2, fsdp 4, model 1) on 2 host(s)' in first
  assert 'trained to step 8' in first
  assert 'tiny16' not in second
  assert 'trained' not in second
  lines, expected = runs.metrics(workdir), runs.metrics(trained)
  assert [line['step'] for line in lines] == [2, 4, 6, 8]
  for line, wanted in zip(lines, expected):
    for name, value in line.items():
      np.testing.assert_allclose(value, wanted[name], rtol=1e-5)
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    values = json.loads(line)
    assert values['records_read'] == 2 * 10**10 + 101
    assert (values['bad_records'], values['dropped_records']) == (3, 11)
  assert (
    '  some: 0 bad and 11 dropped of 20000000001 records read\n'
    '  same: 3 bad and 0 dropped of 100 records read\n'
  ) in first
  assert len(list((workdir / 'tensorboard').iterdir())) == 1
  assert (workdir / 'samples' / 'step_00000008.png').is_file()
  # One process reads what two have written, and goes on with it.
  shutil.copytree(workdir, tmp_path / 'one')
  shutil.rmtree(tmp_path / 'one' / 'checkpoints' / '8')
  cfg = config_lib.override(config_lib.load(tiny), ['train.sample_every=8'])
  assert loop.train(cfg, str(tmp_path / 'one')).step == 8
  for line, wanted in zip(runs.metrics(tmp_path / 'one'), expected):
    for name, value in line.items():
      np.testing.assert_allclose(value, wanted[name], rtol=1e-5)
  assert runs.steps(workdir) == [4, 8]
  state, wanted = runs.state(workdir, 8), runs.state(trained, 8)
  assert int(state.step) == 8
  kernel = state.params['stem']['kernel']
  np.testing.assert_allclose(
    kernel, wanted.params['stem']['kernel'], rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize(
  'which, number', [(1, signal.SIGTERM), (0, signal.SIGINT)]
)
def test_a_signal_to_one_stops_both_at_one_step(
  which, number, tiny, runs, tmp_path
):
  workdir = tmp_path / 'run'
  endless = ('train.num_steps=1000000', 'train.checkpoint_every=1000000')
  with started(tiny, workdir, *endless) as processes:
    wait_for_metrics(workdir, processes)
    processes[which].send_signal(number)
    status = finish(processes)
  # Ctrl-C is passed on as the signal that hosts agree upon.
  assert status == [128 + signal.SIGTERM] * 2, said(workdir)
  (step,) = runs.steps(workdir)
  assert re.search(f'saved step {step}; go on with: /', said(workdir)[0])


def test_where_one_dies_the_other_ends(tiny, runs, tmp_path):
  """And does not wait for it; what was saved is there to go on from."""
  workdir = tmp_path / 'run'
  endless = ('train.num_steps=1000000', 'train.checkpoint_every=2')
  with started(tiny, workdir, *endless) as processes:
    wait_for_metrics(workdir, processes)
    deadline = time.monotonic() + PATIENCE
    while not runs.steps(workdir):
      assert time.monotonic() < deadline, said(workdir)
      time.sleep(0.2)
    processes[1].kill()
    begun = time.monotonic()
    status = processes[0].wait(PATIENCE)
  assert status not in (0, 128 + signal.SIGTERM), said(workdir)
  assert time.monotonic() - begun < 150, said(workdir)
  assert runs.steps(workdir)
