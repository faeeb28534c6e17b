"""The loop in this process: what it writes, refuses, and resumes."""

import functools
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
from PIL import Image
import pytest
from tensorboard.backend.event_processing import event_accumulator

from imagen_jax import config as config_lib
from imagen_jax.data import loader as loader_lib
from imagen_jax.train import advance
from imagen_jax.train import loop
from imagen_jax.train import maintenance
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import step as step_lib
from imagen_jax.train import views
from imagen_jax.train import watchdog

pytestmark = pytest.mark.usefixtures('same_programs')


def config(tiny, *assignments):
  return config_lib.override(config_lib.load(tiny), assignments)


@pytest.fixture
def at_step(monkeypatch):
  """Calls a function as soon as some step of a run is done."""

  def put(step, function):
    advance = metrics_lib.MetricWriter.advance
    done = []

    def count(self):
      advance(self)
      done.append(None)
      if len(done) == step:
        function()

    monkeypatch.setattr(metrics_lib.MetricWriter, 'advance', count)

  return put


def test_a_run_leaves_what_it_says(trained, runs):
  assert runs.steps(trained) == [4, 8]
  lines = runs.metrics(trained)
  assert [line['step'] for line in lines] == [2, 4, 6, 8]
  assert all(0 < line['loss'] < 2 for line in lines)
  text = (trained / 'config.json').read_text()
  assert config_lib.from_json(text).stage.name == 'tiny16'
  with Image.open(trained / 'samples' / 'step_00000008.png') as sheet:
    assert sheet.size[0] > 8 * 96
  found = event_accumulator.EventAccumulator(str(trained / 'tensorboard'))
  found.Reload()
  scalars = {event.step: event.value for event in found.Scalars('loss')}
  np.testing.assert_allclose(
    [scalars[line['step']] for line in lines],
    [line['loss'] for line in lines],
    rtol=1e-6,
  )
  (image,) = found.Images('samples')
  assert (image.step, image.width) == (8, sheet.size[0])


def test_a_state_counts_its_steps(trained, runs):
  state = runs.state(trained, 4)
  assert int(state.step) == 4
  differ = jax.tree.map(
    lambda a, b: bool((a != b).any()), state.params, state.ema_params
  )
  assert any(jax.tree.leaves(differ))


def test_a_stop_within_an_interval_repeats_and_misses_nothing(
  tiny, trained, runs, at_step, tmp_path
):
  # Lines come every 2 steps and checkpoints every 4: step 5 is neither.
  at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
  outcome = loop.train(config(tiny), str(tmp_path))
  assert outcome == advance.Outcome(5, signal.SIGTERM)
  assert runs.steps(tmp_path) == [4, 5]
  assert [line['step'] for line in runs.metrics(tmp_path)] == [2, 4]
  assert loop.train(config(tiny), str(tmp_path)) == advance.Outcome(8, None)
  runs.assert_same(tmp_path, trained, 8)


def test_what_looks_after_a_run_is_there(tiny, at_step, monkeypatch, tmp_path):
  """A notice stops it, a stall is told, and a signal has a trace written."""
  notices, begun = [], []

  def look(self):
    return set(notices)

  monkeypatch.setattr(maintenance.Notices, '_look', look)
  kind = functools.partial(maintenance.Notices, 0.01)
  monkeypatch.setattr(maintenance, 'Notices', kind)
  kind = functools.partial(watchdog.Watchdog, floor=0.5)
  monkeypatch.setattr(watchdog, 'Watchdog', kind)
  monkeypatch.setattr(jax.profiler, 'start_trace', begun.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: None)

  def meddle():
    time.sleep(3)
    notices.append('preempted')
    time.sleep(0.5)

  at_step(3, meddle)
  lower_step = step_lib.lower_step

  def ask_for_a_trace(*args):
    os.kill(os.getpid(), signal.SIGUSR1)
    return lower_step(*args)

  monkeypatch.setattr(step_lib, 'lower_step', ask_for_a_trace)
  cfg = config(tiny, 'train.stall_factor=1')
  outcome = loop.train(cfg, str(tmp_path), maintenance=True)
  assert outcome == advance.Outcome(3, signal.SIGTERM)
  assert len(begun) == 1  # From before the first step; of five.
  stacks = (tmp_path / 'stacks' / '00000-00000002.txt').read_text()
  assert 'no step has ended' in stacks and 'meddle' in stacks


def test_another_mesh_and_microbatches_give_the_same_losses(
  tiny, trained, runs, tmp_path
):
  shutil.copytree(trained, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
  sizes = ['mesh.data=2', 'mesh.fsdp=2', 'mesh.model=2']
  sizes += ['train.microbatches=2', 'train.sample_every=8']
  sizes += ['train.eval_every=4', 'train.num_eval_examples=12']
  # Data that was moved is the same data.
  path = config(tiny).data.tasks[0].path
  (tmp_path / 'moved').symlink_to(path)
  moved = [
    f'data.tasks.{name}.path={tmp_path / "moved"}' for name in ('some', 'same')
  ]
  loop.train(config(tiny, *sizes, *moved), str(tmp_path / 'run'))
  for line, expected in zip(
    runs.metrics(tmp_path / 'run'), runs.metrics(trained)
  ):
    assert line.keys() == expected.keys()
    # The order of sums differs; Adam's first steps enlarge that.
    for name, value in line.items():
      np.testing.assert_allclose(value, expected[name], rtol=1e-5)
  seen, expected = runs.seen(tmp_path / 'run'), runs.seen(trained)
  assert seen[4] == expected[4]
  assert seen[8].keys() == expected[8].keys()
  for name, value in expected[8].items():
    # Colours are counted in bytes, of which some round the other way.
    limits = {'atol': 1e-3} if name.startswith('sample_') else {'rtol': 1e-4}
    np.testing.assert_allclose(seen[8][name], value, **limits)


def test_a_finished_run_is_left_alone(tiny, trained, runs, monkeypatch, capfd):
  """And what steps and views take is not made for it."""

  def refuse(*args, **kwargs):
    raise AssertionError('made for a run that has nothing left to train')

  monkeypatch.setattr(views, 'Views', refuse)
  monkeypatch.setattr(step_lib, 'lower_step', refuse)
  monkeypatch.setattr(loader_lib.Loader, '__next__', refuse)
  before = runs.metrics(trained)
  seen = ('train.sample_every=8', 'train.eval_every=4')
  cfg = config(tiny, *seen)
  assert loop.train(cfg, str(trained)) == advance.Outcome(8, None)
  assert runs.metrics(trained) == before
  assert runs.steps(trained) == [4, 8]
  said = capfd.readouterr().err
  assert 'newest checkpoint is of step 8, and train.num_steps is 8: it' in said
  assert 'the run is at its end, at step 8 of 8: nothing is left to' in said


def test_a_finished_run_whose_last_checkpoint_is_damaged_ends_again(
  tiny, trained, runs, capfd, tmp_path
):
  shutil.copytree(trained, tmp_path / 'run')
  (tmp_path / 'run' / 'checkpoints' / '8' / 'data' / 'metadata').unlink()
  outcome = loop.train(config(tiny), str(tmp_path / 'run'))
  assert outcome == advance.Outcome(8, None)
  runs.assert_same(tmp_path / 'run', trained, 8)
  said = capfd.readouterr().err
  assert 'went on from step 4, as checkpoint 8' in said
  assert 'nothing is left to train' not in said


@pytest.mark.parametrize(
  'assignments, words',
  [
    (
      ['train.seed=3', 'optimizer.b1=0.5', 'train.log_every=1'],
      "differs from the checkpoint's: optimizer.b1: 0.9 -> 0.5; train.se",
    ),
    (
      ['train.seed=3'],
      'seed: 0 -> 3; accepted: the same, another --workdir, or --allow-config',
    ),
    (['train.batch_size=12'], 'train.batch_size is 12; accepted: multiples of'),
    (['mesh.model=3'], r'mesh .* is .* on 8 devices; accepted: sizes whose'),
    (['text.store=/no/store'], "text.store is '/no/store', which has no mani"),
    (['text.max_length=7'], 'max_length is 6 in the store, 7 in the config'),
    (['data.tasks.some.path=/no/data'], '/no/data'),
    (['data.tasks=[]'], 'data.tasks is empty'),
  ],
)
def test_refused_before_the_first_step(tiny, trained, assignments, words):
  before = (trained / 'metrics.jsonl').read_text()
  with pytest.raises(ValueError, match=words):
    loop.train(config(tiny, *assignments), str(trained))
  assert (trained / 'metrics.jsonl').read_text() == before


@pytest.mark.parametrize('field', ['sample_every', 'eval_every'])
def test_what_is_seen_without_held_out_captions_is_refused(
  field, tiny, tmp_path, monkeypatch
):
  """And both ways out are told, of which one is taken."""
  monkeypatch.setattr(
    loop.opening.tasks_lib.source_lib.PictureSource, 'num_heldout', 0
  )
  words = (
    rf"train.{field} is 5, but data.tasks\[some\] has no 'heldout' split; "
    f'accepted: a dataset that has one, or train.{field}=0$'
  )
  with pytest.raises(ValueError, match=words):
    loop.train(config(tiny, f'train.{field}=5'), str(tmp_path))
  assert not (tmp_path / 'metrics.jsonl').exists()
  loop.train(config(tiny, 'train.num_steps=1'), str(tmp_path))


def test_sample_grids_are_of_the_raw_and_of_the_averaged_weights(
  tiny, trained, runs, monkeypatch, tmp_path
):
  shutil.copytree(trained, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
  given = []
  draw = views.samples_lib.Sampler.draw

  def watch(self, params):
    given.append(jax.tree.map(np.array, params))
    return draw(self, params)

  monkeypatch.setattr(views.samples_lib.Sampler, 'draw', watch)
  loop.train(config(tiny, 'train.sample_every=8'), str(tmp_path / 'run'))
  state = runs.state(tmp_path / 'run', 8)
  raw, averaged = given
  jax.tree.map(np.testing.assert_array_equal, raw, state.params)
  jax.tree.map(np.testing.assert_array_equal, averaged, state.ema_params)
  differ = jax.tree.map(lambda a, b: (a != b).any(), averaged, raw)
  assert all(jax.tree.leaves(differ))


def test_steps_made_again_are_told_and_norms_may_be_asked_for_anew(
  tiny, trained, runs, tmp_path
):
  shutil.copytree(trained, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
  cfg = config(tiny, 'train.module_norms=true')
  assert loop.train(cfg, str(tmp_path / 'run')) == advance.Outcome(8, None)
  text = (tmp_path / 'run' / 'metrics.jsonl').read_text()
  first, *_, last = map(json.loads, text.splitlines())
  written = (trained / 'goodput.jsonl').read_text().splitlines()
  again = [
    line['busy'] for line in map(json.loads, written) if line.get('step', 0) > 4
  ]
  assert last['resumes'] == 1 and first['resumes'] == 0
  assert last['lost_seconds/repeated'] == pytest.approx(sum(again), abs=1e-5)
  assert sum(again) > 0
  assert (first['images_seen'], last['images_seen']) == (16, 64)
  kinds = {name.partition('/')[0] for name in last if name.endswith('/down0')}
  assert kinds == {'grad_norm', 'param_norm', 'update_norm'}
  assert not [name for name in first if name.endswith('/down0')]
  # The norms change nothing of what is computed.
  for line, wanted in zip(
    runs.metrics(tmp_path / 'run'), runs.metrics(trained)
  ):
    assert {name: line[name] for name in wanted} == wanted


def test_a_run_that_waits_for_data_says_so(tiny, monkeypatch, capfd, tmp_path):
  """Where any waiting, over any time, is worth a word."""
  monkeypatch.setattr(advance.waits_lib, '_WINDOW', 0.0)
  monkeypatch.setattr(advance.waits_lib, '_MUCH', 0.0)
  loop.train(config(tiny, 'train.num_steps=2'), str(tmp_path))
  said = 'were spent waiting for data, by host 0; what helps: data.threads'
  assert said in capfd.readouterr().err
  (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  line = json.loads(line)
  assert line['data_wait_seconds'] > 0 and 0 < line['data_wait_share'] <= 1


@pytest.mark.parametrize('every', [1, 4])
def test_a_broken_loss_stops_before_it_is_saved(
  every, tiny, trained, runs, monkeypatch, tmp_path
):
  shutil.copytree(trained, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
  batches = []

  def spoil(rows):
    batches.append(to_batch(rows))
    bad = np.nan if len(batches) == 2 else 1
    return batches[-1].replace(image=batches[-1].image * np.float32(bad))

  to_batch = advance._to_batch
  monkeypatch.setattr(advance, '_to_batch', spoil)
  cfg = config(tiny, f'train.checkpoint_every={every}', 'train.log_every=100')
  # It is the second step after the checkpoint of step 4.
  words = (
    'loss is nan at step 6, in the interval that ends with step '
    f'{8 if every == 4 else 6}; the last checkpoint is of step '
    f'{5 if every == 1 else 4}$'
  )
  with pytest.raises(FloatingPointError, match=words):
    loop.train(cfg, str(tmp_path / 'run'))
  assert runs.steps(tmp_path / 'run')[-1] == (5 if every == 1 else 4)
