"""A mixture of three kinds of files, killed twice, on ever more processes."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import socket

import fault_run
import pytest
import shard_files

from imagen_jax import config as config_lib
from imagen_jax.data import tasks as tasks_lib
from imagen_jax.text import identity
from imagen_jax.text import write_store

pytestmark = pytest.mark.slow
PATIENCE = 600  # Seconds until a hang is called one.
STEPS = 9

# Each process writes down what each batch is, and may kill itself.
WATCHED = """
import json, os, signal, time
from imagen_jax.data import loader
from imagen_jax.train import metrics
take, advance, done = loader.Loader.__next__, metrics.MetricWriter.advance, []
def record(self):
  step = self.state()['step']
  batch = take(self)
  slots = batch['slot'].tolist()
  with open(KEYS, 'a') as file:
    file.write(json.dumps([step, slots, batch['key']]) + '\\n')
  return batch
def count(self):
  advance(self)
  done.append(0)
  if len(done) == KILL_AFTER:
    time.sleep(3)  # For the checkpoint, which is written in the background.
    os.kill(os.getpid(), signal.SIGKILL)
loader.Loader.__next__ = record
metrics.MetricWriter.advance = count
"""


@pytest.fixture
def cfg(tiny, tiny_encoder, tmp_path):
  """The tiny run, of shapes in tar, in Parquet and as a TFDS dataset."""
  plain = config_lib.load(tiny)
  (shapes,) = (t for t in plain.data.tasks if t.name == 'some')
  source = tasks_lib.splits(plain)['some'][0]
  records = []
  for number in range(len(source)):
    row = source._row(number, source._all)
    key, picture = source.key(number), source._table.picture(row)
    caption = source.captions(number)[0]
    records.append({'key': key.replace('.', '_'), 'jpg': picture})
    records[-1]['txt'] = caption
  tasks = [dataclasses.replace(shapes, name='tfds', rate=1.0)]
  for kind, some in (('webdataset', records[:17]), ('parquet', records[11:])):
    task = shard_files.indexed(kind, tmp_path / kind, some, rate=2.0)
    tasks.append(dataclasses.replace(task, name=kind))
  data = dataclasses.replace(plain.data, tasks=tuple(tasks))
  text = dataclasses.replace(plain.text, store=str(tmp_path / 'store'))
  cfg = dataclasses.replace(plain, data=data, text=text)
  encoder, known = tiny_encoder(cfg.text), identity.of(cfg.text)
  write_store.write(text.store, tasks_lib.captions(cfg), encoder, known)
  return cfg


def run(cfg, workdir, *, processes, kill_after=0):
  """Runs the command; returns {(step, slot): key}, statuses, what was said."""
  file = workdir.with_suffix('.py')
  file.write_text(
    'from imagen_jax import config\n'
    f'def get_config():\n  return config.from_json({config_lib.to_json(cfg)!r})'
  )
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  flags = ['--config', str(file), '--workdir', str(workdir)]
  some = (f'mesh.simulated_devices={8 // processes}', 'mesh.fsdp=2')
  some += (f'train.num_steps={STEPS}', 'train.checkpoint_every=3')
  for each in some:
    flags += ['--set', each]
  if processes > 1:
    flags += ['--coordinator', address, '--num-processes', str(processes)]
  started, context = [], fault_run.context()
  with contextlib.ExitStack() as stack:
    for number in range(processes):
      path = pathlib.Path(f'{workdir}.{processes}.{number}')
      own = ['--process-id', str(number)] if processes > 1 else []
      process = fault_run.start(
        context,
        ['train', *flags, *own],
        f'{path}.said',
        f'KEYS, KILL_AFTER = {str(path)!r}, {kill_after}{WATCHED}',
      )
      stack.callback(process.join)
      stack.callback(process.kill)
      started.append((process, path))
    for process, _ in started:
      process.join(PATIENCE)
    statuses = [process.exitcode for process, _ in started]
  keys = {}
  for _, path in started:
    for line in path.read_text().splitlines():
      step, slots, names = json.loads(line)
      keys.update(((step, slot), name) for slot, name in zip(slots, names))
  said = pathlib.Path(f'{started[0][1]}.said').read_text()
  return keys, statuses, said


def test_keys_are_those_of_one_process_that_was_left_alone(cfg, tmp_path):
  alone, statuses, said = run(cfg, tmp_path / 'alone', processes=1)
  assert statuses == [0], said
  rows = cfg.train.batch_size
  slots = [
    (step, step * rows + row) for step in range(STEPS) for row in range(rows)
  ]
  assert list(alone) == slots
  assert len(set(alone.values())) > 30

  workdir, found = tmp_path / 'killed', {}
  for processes, kill_after, begins in ((1, 4, 0), (2, 4, 3), (4, 0, 6)):
    keys, statuses, said = run(
      cfg, workdir, processes=processes, kill_after=kill_after
    )
    status = -signal.SIGKILL if kill_after else 0
    assert statuses == [status] * processes, said
    # It has gone on from its checkpoint, and each process had its own rows.
    assert min(keys)[0] == begins, said
    trained = [slot for slot in slots if slot[0] >= begins]
    assert sorted(keys) == trained[: len(keys)]
    found |= keys
    assert f'{processes} host(s)' in said
  told = [json.dumps(sorted(each.items())).encode() for each in (found, alone)]
  assert told[0] == told[1]
