"""Checkpoints of a small state, on one mesh and another."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import checkpoint
from imagen_jax.train import state as state_lib

CONFIG = config_lib.Config(train=config_lib.TrainConfig(seed=7))
IDENTITY = {'encoder': 'fake', 'max_length': 8, 'checkpoint': 'c0ffee'}


def places(**sizes):
  """Shardings of `state`, on a mesh."""
  mesh = sharding.make_mesh(config_lib.MeshConfig(**sizes))
  split = jax.sharding.NamedSharding(mesh, jax.P('fsdp', 'model'))
  whole = sharding.replicated(mesh)
  params = {'block': {'kernel': split, 'bias': whole}, 'out': {'bias': whole}}
  return state_lib.TrainState(whole, params, params, (whole,))


def state(step, shardings):
  """A state of random numbers that differ by step."""
  rng = np.random.default_rng(step)
  values = jax.tree.map(
    lambda _: rng.normal(size=(8, 8)).astype(np.float32), shardings
  )
  values = values.replace(step=np.int32(step))
  return jax.tree.map(jax.device_put, values, shardings)


def abstract(shardings):
  shapes = jax.tree.map(
    lambda place: jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=place),
    shardings,
  )
  return shapes.replace(
    step=jax.ShapeDtypeStruct((), jnp.int32, sharding=shardings.step)
  )


def assert_equal(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_a_state_comes_back_on_another_mesh(tmp_path):
  saved = state(3, places(data=2, fsdp=2, model=2))
  position = {'loader': {'step': 3}, 'interval': [{'loss': 0.1, 'n': np.nan}]}
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    assert checkpointer.latest() is None
    checkpointer.save(saved, position, CONFIG, IDENTITY)
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    assert checkpointer.latest() == 3
    for sizes in ({'fsdp': 8, 'data': 1}, {'model': 4}):
      shardings = places(**sizes)
      restored, got = checkpointer.restore(3, abstract(shardings))
      assert_equal(restored, saved)
      jax.tree.map(
        lambda x, place: (
          x.sharding.is_equivalent_to(place, x.ndim)
          or pytest.fail(f'{x.sharding} is not {place}')
        ),
        restored,
        shardings,
      )
      np.testing.assert_equal(got, position)
    assert checkpointer.said(3).config == CONFIG
    assert checkpointer.said(3).identity == IDENTITY


def test_a_state_without_further_averages_is_laid_out_as_ever(tmp_path):
  """So that what was saved before there were any can be restored."""
  plain = state(1, places())
  more = plain.replace(step=plain.step + 1, ema_powers={'0.1': plain.params})
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    checkpointer.save(plain, {}, CONFIG, IDENTITY)
    checkpointer.save(more, {}, CONFIG, IDENTITY)
  names = []
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    for step in (1, 2):
      metadata = tmp_path / 'checkpoints' / str(step) / 'state' / '_METADATA'
      names.append('ema_powers' in metadata.read_text())
      names.append('ema_powers' in checkpointer.said(step).digests)
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      more,
    )
    restored, _ = checkpointer.restore(2, shapes)
  assert names == [False, False, True, True]
  assert_equal(restored, more)


def test_the_newest_are_kept_and_none_is_left_out(tmp_path):
  shardings = places()
  train = config_lib.TrainConfig(keep_checkpoints=2)
  cfg = config_lib.Config(train=train)
  with checkpoint.Checkpointer(str(tmp_path), config=cfg) as checkpointer:
    # One on the heels of the other, as when a signal comes after a save.
    for step in (1, 2, 3, 4):
      checkpointer.save(state(step, shardings), {}, CONFIG, IDENTITY)
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    assert checkpointer.steps() == [3, 4]
    restored, _ = checkpointer.restore(3, abstract(shardings))
    assert_equal(restored, state(3, shardings))


def test_the_best_are_kept_over_resumes(tmp_path):
  shardings = places()
  cfg = config_lib.Config(
    train=config_lib.TrainConfig(keep_checkpoints=1),
    keep=config_lib.KeepConfig(best=2, metric='valid'),
  )
  judged = {1: 5.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 3.0, 6: None}
  for steps in ((1, 2, 3), (4, 5, 6)):
    with checkpoint.Checkpointer(str(tmp_path), config=cfg) as checkpointer:
      for step in steps:
        value = judged[step] and {'valid': judged[step]}
        data = {'judged': value}
        checkpointer.save(state(step, shardings), data, CONFIG, IDENTITY)
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    assert checkpointer.steps() == [2, 4, 6]
    checkpointer.drop(4)
    assert checkpointer.steps() == [2, 6]


def test_the_best_may_be_by_another_metric_and_one_of_them_damaged(tmp_path):
  """Neither is any reason for a run not to begin, or for a save to fail."""
  shardings = places()

  def keep(metric):
    return config_lib.Config(
      train=config_lib.TrainConfig(keep_checkpoints=1),
      keep=config_lib.KeepConfig(best=1, metric=metric),
    )

  def save(metric, values):
    with checkpoint.Checkpointer(str(tmp_path), config=keep(metric)) as saver:
      for step, value in values.items():
        data = {'judged': {metric: value}}
        saver.save(state(step, shardings), data, CONFIG, IDENTITY)
        saver.wait()

  save('loss', {1: 5.0, 2: 1.0, 3: 2.0})
  assert kept_steps(tmp_path) == [2, 3]
  save('valid', {4: 1.0, 5: 2.0})
  assert kept_steps(tmp_path) == [4, 5]
  for file in (tmp_path / 'checkpoints' / '4').rglob('*'):
    # All that is JSON, of whoever's.
    if file.is_file() and 'state' not in file.parts:
      file.write_bytes(file.read_bytes()[:-9])
  save('valid', {6: 3.0})
  assert kept_steps(tmp_path) == [5, 6]


def kept_steps(workdir):
  with checkpoint.Checkpointer(str(workdir)) as checkpointer:
    return checkpointer.steps()


def test_a_save_that_cannot_be_is_no_silence(tmp_path):
  shardings = places()
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    checkpointer.save(state(2, shardings), {}, CONFIG, IDENTITY)
    with pytest.raises(ValueError, match='already exists'):
      checkpointer.save(state(2, shardings), {}, CONFIG, IDENTITY)
    checkpointer.save(state(1, shardings), {}, CONFIG, IDENTITY)
    assert checkpointer.steps() == [1, 2]


def test_averages_are_read_alone_and_by_name(tmp_path):
  saved = state(5, places(fsdp=4))
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    checkpointer.save(saved, {}, CONFIG, IDENTITY)
  with checkpoint.Checkpointer(str(tmp_path), create=False) as checkpointer:
    shapes = checkpointer.shapes(5, 'ema_params')
    assert {name: s.shape for name, s in shapes.items()} == dict.fromkeys(
      ('block/bias', 'block/kernel', 'out/bias'), (8, 8)
    )
    names = ['block/kernel', 'out/bias']
    arrays = checkpointer.restore_some(5, 'ema_params', names)
  assert list(arrays) == names
  assert all(type(array) is np.ndarray for array in arrays.values())
  ema = saved.ema_params
  assert_equal(arrays['block/kernel'], ema['block']['kernel'])
  assert_equal(arrays['out/bias'], ema['out']['bias'])


def test_small_copies_are_not_cut_in_slices(tmp_path, monkeypatch):
  # A slice costs a computation for each array and device.
  slices = []
  real = jax.lax.slice_in_dim
  monkeypatch.setattr(
    jax.lax,
    'slice_in_dim',
    lambda *args, **kwargs: slices.append(args) or real(*args, **kwargs),
  )
  with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
    checkpointer.save(state(1, places()), {}, CONFIG, IDENTITY)
  assert not slices


def test_looking_makes_no_folder(tmp_path):
  path = tmp_path / 'none'
  with checkpoint.Checkpointer(str(path), create=False) as checkpointer:
    assert checkpointer.steps() == []
    assert checkpointer.latest() is None
  assert not path.exists()


def test_a_relative_workdir(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with checkpoint.Checkpointer('run') as checkpointer:
    checkpointer.save(state(1, places()), {}, CONFIG, IDENTITY)
  assert (tmp_path / 'run' / 'checkpoints' / '1').is_dir()


@pytest.mark.parametrize('alone', [True, False])
def test_a_host_that_fails_alone_waits_for_no_save(
  tmp_path, monkeypatch, alone
):
  """Which the others do not end, as they wait for this host."""
  monkeypatch.setattr(checkpoint, '_PATIENCE', 0.1 if alone else 60)
  others, waited = threading.Event(), []
  if not alone:  # They fail alike, and end the save.
    others.set()
  with pytest.raises(OSError, match='mine'):
    with checkpoint.Checkpointer(str(tmp_path)) as checkpointer:
      manager = checkpointer._manager
      monkeypatch.setattr(
        manager, 'wait_until_finished', lambda: waited.append(others.wait(30))
      )
      closed = []
      monkeypatch.setattr(manager, 'close', lambda: closed.append(1))
      monkeypatch.setattr(checkpoint.jax, 'process_count', lambda: 2)
      raise OSError('mine')
  assert bool(waited) == bool(closed) == (not alone)
  others.set()
