"""Two processes of four simulated devices each, as two hosts of a pod."""

import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow
PATIENCE = 600  # Seconds until a hang is called one.


def start(tiny, workdir, *assignments):
  """Starts both processes of a run."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  flags = ['--config', tiny, '--workdir', str(workdir)]
  for each in ('mesh.simulated_devices=4', 'mesh.fsdp=4', *assignments):
    flags += ['--set', each]
  flags += ['--coordinator', address, '--num-processes', '2']
  return [
    subprocess.Popen(
      [sys.executable, '-m', 'imagen_jax', 'train', *flags]
      + ['--process-id', str(number)],
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  ]


def finish(processes):
  """What both wrote to stderr, and their exit statuses."""
  said = [process.communicate(timeout=PATIENCE)[1] for process in processes]
  return said, [process.returncode for process in processes]


def test_two_processes_compute_what_one_does(tiny, trained, runs, tmp_path):
  said, status = finish(start(tiny, tmp_path, 'train.sample_every=8'))
  assert status == [0, 0], said
  assert 'mesh (data 2, fsdp 4, model 1) on 2 host(s)' in said[0]
  assert 'trained to step 8' in said[0]
  assert said[1] == ''
  lines, expected = runs.metrics(tmp_path), runs.metrics(trained)
  assert [line['step'] for line in lines] == [2, 4, 6, 8]
  for line, wanted in zip(lines, expected):
    for name, value in line.items():
      np.testing.assert_allclose(value, wanted[name], rtol=2e-3)
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 1
  assert (tmp_path / 'samples' / 'step_00000008.png').is_file()
  # One process reads what two have written.
  assert runs.steps(tmp_path) == [4, 8]
  state, wanted = runs.state(tmp_path, 8), runs.state(trained, 8)
  assert int(state.step) == 8
  kernel = state.params['stem']['kernel']
  np.testing.assert_allclose(
    kernel, wanted.params['stem']['kernel'], rtol=0.05, atol=2e-3
  )


@pytest.mark.parametrize('which', [0, 1])
def test_a_signal_to_one_stops_both_at_one_step(which, tiny, runs, tmp_path):
  processes = start(
    tiny, tmp_path, 'train.num_steps=1000000', 'train.checkpoint_every=1000000'
  )
  deadline = time.monotonic() + PATIENCE
  file = tmp_path / 'metrics.jsonl'
  while not (file.exists() and file.read_text()):
    assert time.monotonic() < deadline
    assert all(process.poll() is None for process in processes)
    time.sleep(0.2)
  processes[which].send_signal(signal.SIGTERM if which else signal.SIGINT)
  said, status = finish(processes)
  assert status == [128 + signal.SIGTERM] * 2, said
  (step,) = runs.steps(tmp_path)
  assert re.search(f'saved step {step}; go on with: imagen-jax tr', said[0])
