"""Bad steps: judged, skipped, passed over, and gone back from."""

import json
import math
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import advance
from imagen_jax.train import guard as guard_lib
from imagen_jax.train import loop
from imagen_jax.train import metrics as metrics_lib

pytestmark = pytest.mark.usefixtures('same_programs')

# Two steps of the window's four have to be there for a spike to be one.
GUARD = config_lib.GuardConfig('skip', spike_factor=10.0, window=4)


def judged(values, guard=GUARD):
  """Whether each of some (loss, norm) in turn is bad, and the last count."""
  watch, found, count = guard_lib.fresh(guard), [], 0
  for step, (loss, norm) in enumerate(values):
    metrics = {'loss': jnp.float32(loss), 'grad_norm': jnp.float32(norm)}
    bad, watch, count = guard_lib.judge(watch, metrics, step, guard)
    found.append(bool(bad))
  return found, int(count)


@pytest.mark.parametrize(
  'values, expected, count',
  [
    ([(1, 1)] * 6, [False] * 6, 0),
    ([(math.nan, 1)], [True], 1),
    ([(1, math.inf)], [True], 1),
    # Too few to tell what a spike is; then by either, and by the median.
    ([(1, 1), (99, 1)], [False, False], 0),
    ([(1, 1), (1, 1), (10.5, 1)], [False, False, True], 1),
    ([(1, 1), (1, 1), (1, 10.5)], [False, False, True], 1),
    ([(1, 1), (1, 1), (9.5, 9.5)], [False] * 3, 0),
    ([(1, 1), (1, 1), (3, 1), (3, 1), (3, 1), (25, 1)], [False] * 6, 0),
    # A bad one is no part of the median, and is counted for a window long.
    ([(1, 1), (1, 1), (99, 1), (99, 1)], [False, False, True, True], 2),
    ([(1, 1), (1, 1), (99, 1), (1, 1), (99, 1)], [0, 0, 1, 0, 1], 2),
    ([(math.nan, 1), *[(1, 1)] * 3, (99, 1)], [1, 0, 0, 0, 1], 1),
  ],
)
def test_what_is_bad(values, expected, count):
  assert judged(values) == ([bool(each) for each in expected], count)


def test_without_a_factor_all_that_is_finite_passes():
  guard = config_lib.GuardConfig('skip', window=4)
  assert judged([(1, 1)] * 3 + [(1e9, 1e9)], guard) == ([False] * 4, 0)


def test_what_is_remembered_comes_back_from_json():
  recent = np.array([[1.1, 2], [np.nan, np.nan]] + [[np.inf] * 2] * 2)
  watch = guard_lib.Watch(jnp.asarray(recent, jnp.float32))
  kept = json.loads(json.dumps(guard_lib.as_json(watch)))
  place = jax.devices()[0]
  again = guard_lib.from_json(kept, GUARD, place)
  np.testing.assert_array_equal(again.recent, watch.recent)
  other = config_lib.GuardConfig('skip', window=2)
  for found in (
    guard_lib.from_json(kept, other, place),
    guard_lib.from_json(None, other, place),
  ):
    np.testing.assert_array_equal(found.recent, guard_lib.fresh(other).recent)
  off = config_lib.GuardConfig()
  assert guard_lib.from_json(kept, off, place) is None
  assert guard_lib.as_json(guard_lib.fresh(off)) is None


def config(tiny, policy, *more):
  given = [f'guard.policy={policy}', 'guard.window=6', *more]
  return config_lib.override(config_lib.load(tiny), given)


@pytest.fixture
def spoil(monkeypatch):
  """Has the pictures of some steps be multiplied by a factor."""
  to_batch = advance._to_batch

  def of(steps, factor=math.nan):
    def changed(rows):
      batch = to_batch(rows)
      if rows['slot'][0] // 8 + 1 in steps:
        batch = batch.replace(image=batch.image * np.float32(factor))
      return batch

    monkeypatch.setattr(advance, '_to_batch', changed)

  yield of
  monkeypatch.setattr(advance, '_to_batch', to_batch)


@pytest.fixture(scope='module')
def told(tiny, tmp_path_factory):
  """A run that was told in advance to pass over steps 6 and 7."""
  workdir = tmp_path_factory.mktemp('told') / 'run'
  cfg = config(tiny, 'skip', 'guard.pass_over=[6,7]')
  assert loop.train(cfg, str(workdir)) == advance.Outcome(8, None)
  return workdir


def listed(workdir):
  """The steps and numbers of records in `passed/`, and the reasons."""
  path = workdir / 'passed' / '00000.jsonl'
  entries = [json.loads(line) for line in path.read_text().splitlines()]
  assert {entry['task'] for entry in entries} == {'some', 'same'}
  assert len({(entry['step'], entry['key']) for entry in entries}) > 8
  steps = [entry['step'] for entry in entries]
  return {step: steps.count(step) for step in steps}, {
    entry['reason'] for entry in entries
  }


def test_a_step_passed_over_counts_and_does_nothing_else(
  told, trained, tiny, runs
):
  lines, plain = runs.metrics(told), runs.metrics(trained)
  assert [line['step'] for line in lines] == [2, 4, 6, 8]
  assert [line['skipped_steps'] for line in lines] == [0, 0, 1, 1]
  for line in lines:
    line.pop('skipped_steps')
  # Judging changes no number.
  assert lines[:2] == plain[:2]
  assert lines[2]['loss'] != plain[2]['loss']
  state = runs.state(told, 8)
  assert int(state.step) == 8
  counts = [x for x in jax.tree.leaves(state.opt_state) if x.dtype == np.int32]
  assert counts and all(count == 6 for count in counts)
  assert listed(told) == ({6: 8, 7: 8}, {'passed over'})


def test_a_run_that_skips_is_as_one_told_in_advance(
  tiny, told, runs, spoil, tmp_path
):
  spoil({6, 7})
  assert loop.train(config(tiny, 'skip'), str(tmp_path)).step == 8
  runs.assert_same(tmp_path, told, 8)
  assert listed(tmp_path) == ({6: 8, 7: 8}, {'loss is nan'})


def test_a_run_that_rewinds_is_as_one_told_in_advance(
  tiny, told, runs, spoil, tmp_path, capfd
):
  """Two steps of one, and stopped and gone on with after it went back."""
  go_on, seen = metrics_lib.MetricWriter.advance, []

  def count(self):
    go_on(self)
    seen.append(None)
    if len(seen) == 9:  # Steps 1 to 7, 5 and 6: it has gone back by one.
      os.kill(os.getpid(), signal.SIGTERM)

  cfg = config(
    tiny, 'rewind', 'guard.rewind_steps=2', 'train.checkpoint_every=1'
  )
  spoil({7})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics_lib.MetricWriter, 'advance', count)
    outcome = loop.train(cfg, str(tmp_path))
  assert outcome == advance.Outcome(7, signal.SIGTERM)
  said = capfd.readouterr().err
  line = 'loss is nan at step 7: went back to step 5, to pass over the batches '
  assert line + 'of steps 6 to 7' in said
  assert loop.train(cfg, str(tmp_path)).step == 8
  runs.assert_same(tmp_path, told, 8)
  counts, reasons = listed(tmp_path)
  assert counts == {6: 8, 7: 8}
  assert reasons == {'passed over', 'loss is nan'}


def test_a_run_may_rewind_to_its_seed(tiny, runs, spoil, tmp_path, capfd):
  spoil({2})
  cfg = config(tiny, 'rewind', 'train.num_steps=4')
  assert loop.train(cfg, str(tmp_path)).step == 4
  assert 'went back to step 0' in capfd.readouterr().err
  lines = runs.metrics(tmp_path)
  assert [line['skipped_steps'] for line in lines] == [1, 0]


def test_spikes_end_a_run_that_stops(tiny, spoil, tmp_path):
  spoil({6}, 1e4)
  cfg = config(tiny, 'stop', 'guard.spike_factor=20')
  words = r'a spike \(loss .*\), by guard.spike_factor, at step 6, in the inter'
  with pytest.raises(FloatingPointError, match=words):
    loop.train(cfg, str(tmp_path))


@pytest.mark.parametrize(
  'policy, words',
  [
    ('skip', 'loss is nan, with 3 bad steps within guard.window at step 7'),
    ('rewind', 'loss is nan, after 2 rewinds within guard.window steps at st'),
  ],
)
def test_too_many_end_a_run(policy, words, tiny, told, spoil, tmp_path):
  shutil.copytree(told, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
  spoil({5, 6, 7, 8})
  with pytest.raises(FloatingPointError, match=words):
    loop.train(config(tiny, policy, 'guard.most=2'), str(tmp_path / 'run'))


def test_a_rewind_beyond_what_is_kept_ends_a_run(tiny, spoil, runs, tmp_path):
  spoil({8})
  cfg = config(
    tiny,
    'rewind',
    'guard.rewind_steps=4',
    'train.checkpoint_every=2',
    'train.keep_checkpoints=1',
  )
  words = 'loss is nan at step 8, and no checkpoint of before step 5 is kept'
  with pytest.raises(FloatingPointError, match=words):
    loop.train(cfg, str(tmp_path))
  assert runs.steps(tmp_path) == [6]
