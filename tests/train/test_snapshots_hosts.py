"""Snapshots of two processes, as of two hosts; see `test_snapshots`."""

import socket
import subprocess
import sys

import averaged
import numpy as np
import pytest

from imagen_jax.train import checkpoint

pytestmark = pytest.mark.slow

# Each saves its part; then both go on from a step before the last.
SCRIPT = """
import sys
import jax
workdir, address, number = sys.argv[1:]
jax.config.update('jax_num_cpu_devices', 4)
jax.distributed.initialize(address, 2, int(number))
import averaged
cfg = averaged.config(num_steps=6)
averaged.run(workdir, cfg)
averaged.run(workdir, cfg, start=3)
"""


def test_two_hosts_write_what_one_does(repo, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  argv = [sys.executable, '-c', SCRIPT, str(tmp_path / 'two'), address]
  processes = [
    subprocess.Popen(
      [*argv, str(number)], cwd=repo / 'tests', stderr=subprocess.PIPE
    )
    for number in range(2)
  ]
  for process in processes:
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said.decode()
  averaged.run(tmp_path / 'one', averaged.config(num_steps=6))
  found = []
  for name in ('one', 'two'):
    with checkpoint.Checkpointer(
      str(tmp_path / name), create=False, folder=checkpoint.SNAPSHOTS
    ) as saved:
      assert saved.steps() == [2, 4, 6]
      names = list(saved.shapes(6, 'averages'))
      found.append(saved.restore_some(6, 'averages', names))
      found.append(saved.said(6).digests)
  one, digests, two, same = found
  assert one.keys() == two.keys() and digests == same
  for name, array in one.items():
    np.testing.assert_array_equal(array, two[name])
