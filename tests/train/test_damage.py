"""Damaged checkpoints: told, set aside, and never trained on."""

import json
import logging
import os
import shutil
import weakref

import jax
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import export
from imagen_jax import sharding
from imagen_jax.train import checkpoint
from imagen_jax.train import damage
from imagen_jax.train import loop
from imagen_jax.train import resume
from imagen_jax.train import state as state_lib

pytestmark = [
  pytest.mark.usefixtures('same_programs'),
  # Orbax reads arrays side by side, and does not wait for the others where one
  # fails; they find its event loop gone.
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
]

CONFIG = config_lib.Config(train=config_lib.TrainConfig(seed=7))


def state(step):
  rng = np.random.default_rng(step)
  mesh = sharding.make_mesh(config_lib.MeshConfig(fsdp=4))
  split = jax.sharding.NamedSharding(mesh, jax.P('fsdp'))
  whole = sharding.replicated(mesh)
  params = jax.device_put({'a': rng.normal(size=(8, 40)).astype('f')}, split)
  return state_lib.TrainState(
    jax.device_put(np.int32(step), whole), params, params, (params,)
  )


ABSTRACT = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
  state(0),
)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A workdir with checkpoints of steps 1 and 2."""
  workdir = tmp_path_factory.mktemp('two')
  with checkpoint.Checkpointer(str(workdir)) as checkpointer:
    for step in (1, 2):
      checkpointer.save(state(step), {'loader': {'step': step}}, CONFIG, {})
  return workdir


@pytest.fixture
def workdir(two, tmp_path):
  return shutil.copytree(two, tmp_path / 'run')


def newest(workdir):
  with checkpoint.Checkpointer(str(workdir)) as checkpointer:
    return resume.newest(checkpointer, lambda: ABSTRACT, lambda said: None)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  path.write_bytes(data)


def cut(path):
  os.truncate(path, path.stat().st_size // 2)


HARM = {'flip': flip, 'cut': cut, 'gone': os.remove}


@pytest.mark.parametrize('harm', HARM)
def test_whatever_is_harmed_nothing_wrong_is_read(harm, two, tmp_path):
  """Each file of the newest checkpoint in its turn."""
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  inside = [
    path.relative_to(two)
    for path in sorted((two / 'checkpoints' / '2').rglob('*'))
    if path.is_file()
  ]
  fallen = 0
  for number, name in enumerate(inside):
    workdir = shutil.copytree(two, tmp_path / str(number))
    HARM[harm](workdir / name)
    found = newest(workdir)
    step = found.said.step
    jax.tree.map(np.testing.assert_array_equal, found.state, state(step))
    assert found.data == {'loader': {'step': step}}
    if step == 1:
      fallen += 1
      (line,) = found.damaged
      assert line.startswith('checkpoint 2: ')
      assert line.endswith(f'; it is now {workdir}/damaged/2')
      assert (workdir / 'damaged' / '2').is_dir()
      assert [p.name for p in (workdir / 'checkpoints').iterdir()] == ['1']
  # The numbers, the tables that lead to them, the position, the config.
  assert fallen >= 5
  assert len(inside) > fallen


def test_a_step_can_be_saved_again(workdir):
  shutil.rmtree(workdir / 'checkpoints' / '2' / 'state' / 'd')
  with checkpoint.Checkpointer(str(workdir)) as checkpointer:
    assert (
      resume.newest(checkpointer, lambda: ABSTRACT, lambda said: None).said.step
      == 1
    )
    checkpointer.save(state(2), {'again': 1}, CONFIG, {})
  assert newest(workdir).data == {'again': 1}
  shutil.rmtree(workdir / 'checkpoints' / '2' / 'state' / 'd')
  assert newest(workdir).damaged[0].endswith('/damaged/2-1')


def test_where_all_are_damaged_nothing_is_begun(workdir):
  for step in '12':
    cut(workdir / 'checkpoints' / step / 'data' / 'metadata')
  words = (
    'no checkpoint that is sound: checkpoint 2: data cannot be read .*; '
    'checkpoint 1: data .*; accepted: one that is, or another --workdir'
  )
  with pytest.raises(ValueError, match=words):
    newest(workdir)
  assert not (workdir / 'damaged').exists()
  assert len(list((workdir / 'checkpoints').iterdir())) == 2


def test_storage_that_does_not_answer_is_no_damage(workdir, monkeypatch):
  def restore(*_, **__):
    raise Exception('somewhere') from ValueError('PERMISSION_DENIED: no')

  handler = checkpoint.ocp.PyTreeCheckpointHandler
  monkeypatch.setattr(handler, 'restore', restore)
  words = '--workdir .*/2/state.*read.*PERMISSION_DENIED: no'
  with pytest.raises(ValueError, match=words) as refusal:
    newest(workdir)
  assert not isinstance(refusal.value, damage.DamagedError)
  assert not (workdir / 'damaged').exists()


def test_what_may_not_be_gone_on_from_is_not_gone_round(workdir):
  def check(said):
    raise ValueError(f'not from {said.step}')

  with checkpoint.Checkpointer(str(workdir)) as checkpointer:
    with pytest.raises(ValueError, match='not from 2'):
      resume.newest(checkpointer, lambda: ABSTRACT, check)


@pytest.mark.parametrize(
  'others, words',
  [
    (resume._DAMAGED, 'damaged, as another host sees it'),
    (resume._FAILED, 'another host cannot read a checkpoint'),
  ],
)
def test_what_another_host_cannot_read_is_not_used(others, words, monkeypatch):
  gathered = []

  def largest(own):
    gathered.extend(own)
    return [max(*own, others)]

  monkeypatch.setattr(resume.hosts, 'largest', largest)
  with pytest.raises(ValueError, match=words):
    resume._together(lambda: 1)

  def damaged():
    raise damage.DamagedError('mine')

  # What is damaged here as well is told by what is known here.
  own = 'mine' if others == resume._DAMAGED else words
  with pytest.raises(ValueError, match=own):
    resume._together(damaged)
  assert gathered == [resume._SOUND, resume._DAMAGED]


def test_checkpoints_without_digests_are_read(workdir):
  path = workdir / 'checkpoints' / '2' / 'config' / 'metadata'
  said = json.loads(path.read_text())
  del said['digests'], said['digest']
  path.write_text(json.dumps(said))
  found = newest(workdir)
  assert (found.said.step, found.said.digests) == (2, {})


def misdigest(workdir, part):
  """Has the newest checkpoint say another digest of a part."""
  path = workdir / 'checkpoints' / '2' / 'config' / 'metadata'
  said = json.loads(path.read_text())
  said['digests'][part] = '0'
  del said['digest']
  path.write_text(json.dumps(said))


def test_no_two_states_are_on_the_devices_at_once(workdir, monkeypatch):
  """Which need not have room for what is damaged and for what is not."""
  misdigest(workdir, 'params')
  restore, read = checkpoint.Checkpointer.restore, []

  def watch(self, step, abstract):
    assert not [array for array in read if array() is not None]
    found, data = restore(self, step, abstract)
    read.extend(weakref.ref(array) for array in jax.tree.leaves(found))
    return found, data

  monkeypatch.setattr(checkpoint.Checkpointer, 'restore', watch)
  assert newest(workdir).said.step == 1
  assert len(read) == 8


def test_a_damaged_average_is_not_exported(workdir, tmp_path):
  misdigest(workdir, 'ema_params')
  with pytest.raises(ValueError, match='checkpoint 2: ema_params is not what'):
    export.export_weights(str(workdir), str(tmp_path / 'out'))
  assert not (tmp_path / 'out' / export.MANIFEST_FILE).exists()
  export.export_weights(str(workdir), str(tmp_path / 'other'), step=1)


def test_a_run_goes_on_from_the_one_before(
  tiny, trained, runs, tmp_path, capsys
):
  """And ends as if nothing had been."""
  workdir = shutil.copytree(trained, tmp_path / 'run')
  shutil.rmtree(workdir / 'checkpoints' / '8' / 'state' / 'd')
  assert loop.train(config_lib.load(tiny), str(workdir)).step == 8
  said = capsys.readouterr().err
  assert 'went on from step 4, as checkpoint 8: ' in said
  assert f'it is now {workdir}/damaged/8' in said
  runs.assert_same(workdir, trained, 8)
