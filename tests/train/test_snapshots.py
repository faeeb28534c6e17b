"""Snapshots of averages: all of them, and of one course of the parameters."""

import shutil

import averaged
import jax
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import checkpoint
from imagen_jax.train import loop
from imagen_jax.train import parts
from imagen_jax.train import power_ema
from imagen_jax.train import saving
from imagen_jax.train import snapshots

pytestmark = pytest.mark.usefixtures('same_programs')

LENGTHS = ('0.05', '0.1')


def opened(workdir):
  return checkpoint.Checkpointer(
    str(workdir), create=False, folder=checkpoint.SNAPSHOTS
  )


def steps(workdir):
  with opened(workdir) as found:
    return found.steps()


def arrays(workdir, step):
  """All of a snapshot's averages, by name."""
  with opened(workdir) as found:
    names = list(found.shapes(step, 'averages'))
    return found.restore_some(step, 'averages', names)


def assert_equal(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_they_come_at_intervals_and_at_the_end_and_all_stay(tmp_path):
  cfg = averaged.config(num_steps=9, ema_snapshot_every=4, keep_checkpoints=1)
  said = []
  with averaged.opened(tmp_path, cfg, say=said.append) as saver:
    due = [step for step in range(1, 10) if saver.due(step)]
    assert due == [4, 8, 9]
    for step in due:
      assert saver.save(step, averaged.state(step, cfg)) > 0
      # Nothing is under way once it returns.
      assert steps(tmp_path) == due[: due.index(step) + 1]
  (line,) = said
  assert line == (
    'every 4 steps a snapshot of the averages of 0.05, 0.1 goes to '
    f'{tmp_path}/ema, 0.001 GB each'
  )
  assert not (tmp_path / 'checkpoints').exists()


def test_they_are_restored_on_another_mesh(tmp_path):
  cfg = averaged.config(num_steps=2)
  averaged.run(tmp_path, cfg)
  mesh = sharding.make_mesh(config_lib.MeshConfig(data=2, fsdp=2, model=2))
  place = jax.sharding.NamedSharding(mesh, jax.P('model', 'fsdp'))
  tree = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, 'float32', sharding=place),
    averaged.params(2),
  )
  step = jax.ShapeDtypeStruct((), 'int32', sharding=sharding.replicated(mesh))
  abstract = snapshots.Snapshot(step, dict.fromkeys(LENGTHS, tree))
  with opened(tmp_path) as found:
    restored, _ = found.restore(2, abstract)
    digests = parts.digests_of(restored, {})
    assert {'averages', 'step'} < set(digests)
    found.said(2).check(digests)
    assert found.said(2).config == cfg
  assert_equal(restored.averages, averaged.state(2, cfg).ema_powers)


def test_half_of_the_bytes(tmp_path):
  cfg = averaged.config(num_steps=2, ema_snapshot_dtype='bfloat16')
  averaged.run(tmp_path, cfg)
  state = averaged.state(2, cfg)
  cast = snapshots._cast(state.ema_powers, 'bfloat16')
  for leaf, was in zip(
    jax.tree.leaves(cast), jax.tree.leaves(state.ema_powers)
  ):
    assert leaf.sharding.is_equivalent_to(was.sharding, was.ndim)
  found = arrays(tmp_path, 2)
  kernel = found['0.05/stem/kernel']
  assert kernel.dtype == 'bfloat16'
  expected = state.ema_powers['0.05']['stem']['kernel']
  np.testing.assert_array_equal(kernel, np.asarray(expected, 'bfloat16'))


def test_a_run_takes_again_what_came_after_its_checkpoint(tmp_path):
  """As if it had not been killed; nothing of another course remains."""
  cfg = averaged.config(num_steps=8)
  averaged.run(tmp_path / 'whole', cfg)
  averaged.run(tmp_path / 'killed', cfg, stop=6)
  # Killed within the snapshot of step 8, having gone on from step 3.
  left = tmp_path / 'killed' / 'ema' / '8.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / 'killed' / 'ema' / '6', left)
  with averaged.opened(tmp_path / 'killed', cfg, start=3):
    assert steps(tmp_path / 'killed') == [2]
  averaged.run(tmp_path / 'killed', cfg, start=3)
  assert steps(tmp_path / 'killed') == steps(tmp_path / 'whole') == [2, 4, 6, 8]
  for step in (2, 4, 8):
    assert_equal(
      arrays(tmp_path / 'killed', step), arrays(tmp_path / 'whole', step)
    )
  # A run that begins anew has none.
  with averaged.opened(tmp_path / 'killed', cfg):
    assert steps(tmp_path / 'killed') == []


def test_a_save_that_fails_is_tried_again(tmp_path, monkeypatch):
  waited, said, fates = [], [], [OSError(28, 'No space left'), None]
  save = checkpoint.Checkpointer.save

  def try_to(self, *args):
    if fate := fates.pop(0):
      raise fate
    return save(self, *args)

  monkeypatch.setattr(saving.time, 'sleep', waited.append)
  monkeypatch.setattr(checkpoint.Checkpointer, 'save', try_to)
  cfg = averaged.config(num_steps=4)
  with averaged.opened(tmp_path, cfg, say=said.append) as saver:
    saver.save(2, averaged.state(2, cfg))
    assert steps(tmp_path) == [2]
    assert waited == [1]
    (_, line) = said
    assert line == (
      'the snapshot of averages of step 2 was not written ([Errno 28] No space '
      'left); the newest is of step 0; it will be tried again'
    )
    fates += [OSError(28, 'No space left')] * 20
    words = 'no snapshot of averages can be written since step 2: .Errno 28'
    with pytest.raises(ValueError, match=words):
      saver.save(4, averaged.state(4, cfg))
  assert steps(tmp_path) == [2]


@pytest.mark.parametrize('lengths', [(), (0.1,)])
def test_without_lengths_or_intervals_nothing_is_done(lengths, tmp_path):
  cfg = averaged.config(ema_lengths=lengths, ema_snapshot_every=0)
  with averaged.opened(tmp_path, cfg, say=pytest.fail) as saver:
    assert not any(saver.due(step) for step in range(30))
  assert not list(tmp_path.iterdir())


# The loop.

SETTINGS = ['train.ema_lengths=[0.05,0.1]', 'train.ema_snapshot_every=1']


def config(tiny, *assignments):
  return config_lib.override(
    config_lib.load(tiny), [*SETTINGS, 'train.keep_checkpoints=9', *assignments]
  )


@pytest.fixture(scope='module')
def run(tiny, tmp_path_factory):
  """A run with a snapshot, and a checkpoint, of each of its steps."""
  workdir = tmp_path_factory.mktemp('averaged') / 'run'
  save, missing = saving.Saver.save, []

  def watch(self, step, state, data):
    if self._what == 'checkpoint':
      missing.extend({*range(1, step + 1)} - {*steps(workdir)})
    save(self, step, state, data)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(saving.Saver, 'save', watch)
    loop.train(config(tiny, 'train.checkpoint_every=1'), str(workdir))
  # No checkpoint is begun before the snapshots up to it are complete.
  assert not missing
  return workdir


def test_a_run_averages_what_it_trains(run, runs):
  """Against the recursion in float64, over the parameters of checkpoints."""
  assert steps(run) == runs.steps(run) == [*range(1, 9)]
  averages = dict.fromkeys(LENGTHS, 0.0)
  for step in range(1, 9):
    state = runs.state(run, step)
    kernel = state.params['stem']['kernel'].astype(float)
    found = arrays(run, step)
    for name in LENGTHS:
      beta = (1 - 1 / step) ** (power_ema.gamma(float(name)) + 1)
      averages[name] = beta * averages[name] + (1 - beta) * kernel
      np.testing.assert_allclose(
        found[f'{name}/stem/kernel'], averages[name], rtol=1e-5, atol=1e-7
      )
      np.testing.assert_array_equal(
        found[f'{name}/stem/kernel'], state.ema_powers[name]['stem']['kernel']
      )


def test_what_is_trained_is_what_it_was_without_averages(run, trained, runs):
  assert runs.metrics(run) == runs.metrics(trained)
  state, before = runs.state(run, 8), runs.state(trained, 8)
  assert before.ema_powers == {}
  assert_equal(state.replace(ema_powers={}), before)
  assert sorted(state.ema_powers) == list(LENGTHS)


def test_a_run_that_was_killed_has_them_all(run, tiny, runs, tmp_path):
  """Bit for bit, though one was lost and one was of something else."""
  workdir = shutil.copytree(run, tmp_path / 'run')
  for step in range(5, 9):
    shutil.rmtree(workdir / 'checkpoints' / str(step))
  shutil.rmtree(workdir / 'ema' / '7')
  shutil.rmtree(workdir / 'ema' / '6')
  shutil.copytree(workdir / 'ema' / '2', workdir / 'ema' / '6')
  loop.train(config(tiny), str(workdir))
  assert steps(workdir) == [*range(1, 9)]
  for step in range(5, 9):
    assert_equal(arrays(workdir, step), arrays(run, step))
  runs.assert_same(workdir, run, 8)


def test_averages_cannot_begin_in_the_middle(run, tiny, trained):
  for workdir, lengths in ((trained, [0.05]), (run, []), (run, [0.05, 0.2])):
    cfg = config(tiny, 'train.ema_snapshot_every=0')
    cfg = config_lib.override(cfg, [f'train.ema_lengths={lengths}'])
    words = r'train.ema_lengths is \(.*an average is of a whole run; accepted: '
    with pytest.raises(ValueError, match=words):
      loop.train(cfg, str(workdir), allow_config_change=True)
