"""`imagen-jax encode` in processes of its own: one, four, and killed."""

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import golden_files
import pytest

pytestmark = pytest.mark.slow
PATIENCE = 900  # Seconds until a hang is called one.

# The command, with a golden T5 in the table, a token a letter, and captions
# from a list, so that no process needs TensorFlow.
PROGRAM = """
import sys, types
import imagen_jax
from imagen_jax.cli import main
from imagen_jax.text import encoders, spool, tokenizer

sys.path.append(TESTS)
from letters import Letters

tokenizer.load = lambda text: Letters()
encoders.TABLE['tiny'] = encoders.Encoder(
  't5', 32, 2, 4, 8, 64, vocab_size=128, num_pieces=100
)
captions = [f'{"a picture of a thing"[: i % 20]} {i}' for i in range(NUM)]
data = types.ModuleType('imagen_jax.data')
data.tasks = types.ModuleType('imagen_jax.data.tasks')
data.tasks.captions = lambda config: [spool.Listed(captions)]
sys.modules[data.__name__] = imagen_jax.data = data
sys.modules[data.tasks.__name__] = data.tasks
sys.exit(main.main(sys.argv[1:]))
"""
NUM = 1500  # Captions; about 70 shards of SHARD_BYTES.
SHARD_BYTES = 20_000
TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Has the golden checkpoints, a config, and the stores of the tests."""
  folder = tmp_path_factory.mktemp('hosts')
  golden_files.unpack(folder)
  (folder / 'config.py').write_text(
    'from imagen_jax import config\n'
    'def get_config():\n'
    "  return config.Config(text=config.TextConfig('tiny', "
    f'{str(folder / "t5x-tiny" / "t5_1_1")!r}, max_length=24, embed_dim=32))\n'
  )
  return folder


@contextlib.contextmanager
def started(folder, name, num=1, devices=1):
  """Starts the processes that write a store, and lets none of them stay."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  program = PROGRAM.replace('NUM', str(NUM)).replace('TESTS', f'{str(TESTS)!r}')
  argv = [sys.executable, '-c', program, 'encode']
  argv += ['--config', str(folder / 'config.py'), '--out', str(folder / name)]
  argv += ['--set', f'mesh.simulated_devices={devices}']
  argv += ['--shard-bytes', str(SHARD_BYTES)]
  if num > 1:
    argv += ['--coordinator', address, '--num-processes', str(num)]
  with contextlib.ExitStack() as stack:
    processes = []
    for number in range(num):
      file = stack.enter_context(open(folder / f'{name}.{number}', 'w'))
      own = ['--process-id', str(number)] if num > 1 else []
      process = subprocess.Popen([*argv, *own], stdout=file, stderr=file)
      stack.callback(process.wait)
      stack.callback(process.kill)
      processes.append(process)
    yield processes


def run(folder, name, **options):
  """Writes a store; returns its files and what process 0 said."""
  with started(folder, name, **options) as processes:
    status = [process.wait(PATIENCE) for process in processes]
  said = [
    (folder / f'{name}.{number}').read_text()
    for number in range(len(processes))
  ]
  assert status == [0] * len(processes), said
  return contents(folder / name), said[0]


def contents(path):
  return {
    str(file.relative_to(path)): file.read_bytes()
    for file in path.glob('**/*')
    if file.is_file()
  }


@pytest.fixture(scope='module')
def whole(folder):
  """The files of a store that one process wrote with one device."""
  found, said = run(folder, 'whole')
  assert f'encoded {NUM} captions on this host' in said
  assert len(found) > 100
  assert not [name for name in found if 'spool' in name or 'tmp' in name]
  return found


def test_four_processes_write_what_one_does(folder, whole):
  found, said = run(folder, 'four', num=4)
  assert found == whole
  encoded = int(re.search(r'encoded (\d+) captions on this host', said)[1])
  assert NUM / 8 < encoded < NUM / 2


def test_a_kill_loses_no_shard_that_is_whole(folder, whole):
  """Killed on three processes, gone on with by two of two devices each."""
  path = folder / 'killed'
  notes = lambda: list(path.glob('part-000/*.json'))
  with started(folder, 'killed', num=3) as processes:
    deadline = time.monotonic() + PATIENCE
    while len(notes()) < 6:
      assert time.monotonic() < deadline
      assert not any(process.poll() for process in processes)
      time.sleep(0.01)
    for process in processes:
      process.send_signal(signal.SIGKILL)
    for process in processes:
      process.wait()
  assert not (path / 'manifest.json').exists()
  kept = {
    file: file.stat().st_mtime_ns
    for note in notes()
    for file in (
      note.with_suffix('.array_record'),
      note.with_suffix('.npy'),
    )
  }
  assert 12 <= len(kept) < len(whole) - 20
  found, _ = run(folder, 'killed', num=2, devices=2)
  assert found == whole
  assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
