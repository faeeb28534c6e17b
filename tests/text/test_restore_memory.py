"""The benchmark of host memory holds at several GB, and can fail."""

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_hosts_hold_their_shards_and_less_than_a_gigabyte(repo, tmp_path):
  """Four processes, eight devices, 4.6 GiB of float32."""
  command = [sys.executable, 'benchmarks/restore_memory.py']
  command += ['--encoder', 't5_1_1_xl', '--folder', str(tmp_path)]
  done = subprocess.run(
    command,
    cwd=repo,
    env={**os.environ, 'PYTHONPATH': str(repo)},
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stdout + done.stderr[-3000:]
  rows = re.findall(r'^\| \d \| ([\d.]+) \| ([\d.]+) \|', done.stdout, re.M)
  assert len(rows) == 4
  for shards, peak in rows:
    # A quarter each; less than its shards it cannot have taken.
    assert 1.0 < float(shards) < 1.3
    assert float(shards) <= float(peak) < float(shards) + 1


def test_a_synthetic_checkpoint_is_chunked_as_t5xs(repo, monkeypatch):
  monkeypatch.syspath_prepend(repo / 'benchmarks')
  import synthetic_checkpoint

  # What T5X's own writer chose for XXL.
  for shape, chunks in (
    ((32128, 4096), [4016, 4096]),
    ((4096, 10240), [4096, 2560]),
    ((10240, 4096), [2560, 4096]),
    ((4096, 4096), [4096, 4096]),
  ):
    assert synthetic_checkpoint.chunk_shape(shape, 4) == chunks
