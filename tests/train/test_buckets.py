"""The whole way with everything in a bucket, by the command line."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import fault_run
from PIL import Image
import pytest

from imagen_jax import export

_TESTS = str(pathlib.Path(__file__).parents[1])

# Where the second checkpoint has just begun to be written.
_KILLED = """
import os, signal
from imagen_jax.train import checkpoint
save, done = checkpoint.Checkpointer.save, []
def count(self, *args):
  save(self, *args)
  done.append(0)
  if len(done) == 2:
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.Checkpointer.save = count
"""
# `imagen-jax`, where TensorFlow must not be loaded; with a text encoder that
# takes nothing to load, from this folder.
_LIGHT = f"""
import sys
sys.path.append({_TESTS!r})
import conftest
from imagen_jax.cli import main
from imagen_jax.text import encoder
encoder.TextEncoder = conftest.TinyEncoder
status = main.main(sys.argv[1:])
assert 'gcsfs' in sys.modules
assert 'tensorflow' not in sys.modules
sys.exit(status)
"""


@pytest.fixture
def child(storage_server):
  """Runs a script in a process of its own; returns its status and stderr."""

  def run(script, *argv):
    # The storage's address came after what conftest.py sets for children.
    done = subprocess.run(
      [sys.executable, '-c', script, *map(str, argv)],
      env={**os.environ, **storage_server.env},
      capture_output=True,
      text=True,
      timeout=600,
    )
    return done.returncode, done.stderr

  return run


@pytest.fixture
def train(storage_server, tmp_path):
  """Trains in a process of its own; returns its status and what it said."""

  def run(before, *flags):
    log = tmp_path / 'train.log'
    address = f'import os\nos.environ.update({storage_server.env!r})\n'
    argv = ['train', *map(str, flags)]
    process = fault_run.start(
      fault_run.context(), argv, str(log), address + before
    )
    process.join(600)
    return process.exitcode, log.read_text()

  return run


@pytest.mark.slow
def test_from_data_to_pictures(
  places, bucket, storage_server, train, child, trained, runs, tmp_path
):
  root, there = f'gs://{bucket}', tmp_path / 'there'
  workdir = ['--workdir', f'{root}/run']
  often = ['mesh.simulated_devices=8', 'train.checkpoint_every=2']
  flags = [*places, *workdir]
  for each in (*often, 'train.sample_every=8'):
    flags += ['--set', each]

  status, said = train(_KILLED, *flags)
  assert status == -signal.SIGKILL, said
  storage_server.download(bucket, 'run', there / 'killed')
  assert [m['step'] for m in runs.metrics(there / 'killed')][:2] == [2, 4]

  status, said = train('', *flags)
  assert status == 0, said
  assert 'resuming from step' in said
  assert f'trained to step 8: {root}/run' in said
  storage_server.download(bucket, 'run', there / 'run')
  runs.assert_same(there / 'run', trained, 8)
  assert runs.steps(there / 'run') == [4, 6, 8]
  assert (there / 'run' / 'samples' / 'step_00000008.png').exists()
  assert list((there / 'run' / 'tensorboard').iterdir())

  out = f'{root}/exports/base'
  status, said = child(_LIGHT, 'export', *workdir, '--out', out)
  assert status == 0, said
  storage_server.download(bucket, 'exports/base', there / 'base')
  local = export.export_weights(str(trained), str(tmp_path / 'local'))
  found = json.loads((there / 'base' / 'manifest.json').read_text())
  assert found['files'] == local['files']

  flags = ['--weights', out, '--out', f'{root}/samples', '--seed', '1']
  status, said = child(_LIGHT, 'sample', *flags, '--prompt', 'a red circle')
  assert status == 0, said
  names = storage_server.names(bucket, 'samples/')
  assert names == [
    f'samples/{name}'
    for name in ('00000_00_w0.png', 'grid.png', 'samples.jsonl')
  ]
  storage_server.download(bucket, 'samples', there / 'samples')
  with Image.open(there / 'samples' / '00000_00_w0.png') as picture:
    assert picture.size == (16, 16)
  assert storage_server.unknown == []
