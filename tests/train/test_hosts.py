"""Processes with eight simulated devices together, as hosts of a pod."""

import json
import re
import shutil
import signal

import host_runs
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import loop

pytestmark = pytest.mark.slow

# Has processes count other records: of one task, so many read
# that they take more than 32 bits, and of the other, the first process none.
COUNTS = """
import sys
from imagen_jax.data import tally
number = int(sys.argv[-1])
some = {'seen': 10**10 + number, 'bad': {}, 'dropped': {'small': 5 + number}}
same = {'seen': 100, 'bad': {'a': 2, 'b': 1}, 'dropped': {}}
counts = [{'some': some}, {'same': same, 'some': some}][number]
tally.Tally.counts = lambda self: counts
"""


def test_two_processes_compute_what_one_does(tiny, trained, runs, tmp_path):
  workdir = tmp_path / 'run'
  options = {'before': COUNTS}
  seen = ['sample_every=8', 'eval_every=4', 'num_eval_examples=12']
  settings = [f'train.{each}' for each in seen]
  with host_runs.started(tiny, workdir, *settings, **options) as hosts:
    assert hosts.finish() == [0, 0], hosts.said()
  first, second = hosts.said()
  assert 'mesh (data 2, fsdp 4, model 1) on 2 host(s)' in first
  assert 'trained to step 8' in first
  assert 'tiny16' not in second
  assert 'trained' not in second
  lines, expected = runs.metrics(workdir), runs.metrics(trained)
  assert [line['step'] for line in lines] == [2, 4, 6, 8]
  for line, wanted in zip(lines, expected):
    for name, value in line.items():
      np.testing.assert_allclose(value, wanted[name], rtol=1e-5)
  seen, wanted = runs.seen(workdir), runs.seen(trained)
  assert seen.keys() == wanted.keys() == {4, 8}
  for step, values in wanted.items():
    for name, value in values.items():
      limits = {'atol': 1e-3} if name.startswith('sample_') else {'rtol': 1e-4}
      np.testing.assert_allclose(seen[step][name], value, **limits)
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
  'which, number, count',
  [(1, signal.SIGTERM, 2), (0, signal.SIGINT, 2), (3, signal.SIGTERM, 4)],
)
def test_a_signal_to_one_stops_all_at_one_step(
  which, number, count, tiny, runs, tmp_path
):
  workdir = tmp_path / 'run'
  endless = ('train.num_steps=1000000', 'train.checkpoint_every=1000000')
  with host_runs.started(tiny, workdir, *endless, count=count) as hosts:
    hosts.until_metrics()
    hosts.kill(which, number)
    status = hosts.finish()
  # Ctrl-C is passed on as the signal that hosts agree upon.
  assert status == [128 + signal.SIGTERM] * count, hosts.said()
  (step,) = runs.steps(workdir)
  assert re.search(f'saved step {step}; go on with: /', hosts.said()[0])


# In step 5 each process finds pictures that are no numbers.
SPOILED = """
import sys
import numpy as np
from imagen_jax.train import advance
to_batch = advance._to_batch
def spoil(rows):
  batch = to_batch(rows)
  bad = rows['slot'][0] // 8 == 4
  return batch.replace(image=batch.image * np.float32(np.nan)) if bad else batch
advance._to_batch = spoil
"""


def test_all_hosts_rewind_alike(tiny, runs, tmp_path):
  workdir = tmp_path / 'run'
  options = {'before': SPOILED}
  policy = 'guard.policy=rewind'
  with host_runs.started(tiny, workdir, policy, **options) as hosts:
    assert hosts.finish() == [0, 0], hosts.said()
  assert 'loss is nan at step 5: went back to step 4, to' in hosts.said()[0]
  told = ['guard.policy=rewind', 'guard.pass_over=[5]']
  cfg = config_lib.override(config_lib.load(tiny), told)
  assert loop.train(cfg, str(tmp_path / 'told')).step == 8
  lines, expected = runs.metrics(workdir), runs.metrics(tmp_path / 'told')
  assert len(lines) == len(expected) == 4
  for line, wanted in zip(lines, expected):
    assert line.keys() == wanted.keys()
    for name, value in line.items():
      np.testing.assert_allclose(value, wanted[name], rtol=1e-5)
  listed = sorted((workdir / 'passed').iterdir())
  assert [path.name for path in listed] == ['00000.jsonl', '00001.jsonl']
  entries = [
    json.loads(line)
    for path in listed
    for line in path.read_text().splitlines()
  ]
  # Between them they have the batch's eight.
  assert len({(each['task'], each['key']) for each in entries}) == 8
  assert {entry['step'] for entry in entries} == {5}
