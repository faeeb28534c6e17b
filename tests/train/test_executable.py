"""A step that was compiled before: used as it is, or refused."""

import hashlib
import json
import logging
import pickle

import jax
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.cli import main
from imagen_jax.train import advance
from imagen_jax.train import executable
from imagen_jax.train import exhausted
from imagen_jax.train import loop
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

MESH = ('mesh.data=4', 'mesh.fsdp=2')


def lowered(cfg, devices=None):
  """A run's step, its mesh and its fingerprint."""
  mesh = sharding.make_mesh(cfg.mesh, devices)
  tx = optimizer.make_optimizer(cfg)
  shardings = state_lib.state_shardings(cfg, tx, mesh)
  state = state_lib.abstract_state(cfg, tx, shardings)
  with sharding.use_mesh(mesh, cfg.mesh):
    step = step_lib.lower_step(cfg, tx, state, mesh)
  return step, mesh, executable.fingerprint(cfg, step, mesh)


@pytest.fixture(scope='module')
def cfg(tiny):
  return config_lib.override(config_lib.load(tiny), MESH)


@pytest.fixture(scope='module')
def saved(cfg, tmp_path_factory):
  """A file of the tiny run's step on eight devices."""
  # What the suite's cache of programs returns cannot be written down again.
  jax.config.update('jax_enable_compilation_cache', False)
  jax.experimental.compilation_cache.compilation_cache.reset_cache()
  step, mesh, made_of = lowered(cfg)
  with sharding.use_mesh(mesh, cfg.mesh):
    compiled = step.compile()
  jax.config.update('jax_enable_compilation_cache', True)
  path = tmp_path_factory.mktemp('executable') / 'step'
  executable.save(str(path), compiled, made_of)
  return path


@pytest.fixture
def compilations(caplog):
  """Names of what JAX compiles within it, or takes from its cache."""

  def names():
    return [
      record.getMessage().split('jit(')[1].split(')')[0]
      for record in caplog.records
      if record.getMessage().startswith('Finished XLA compilation of jit(')
    ]

  with caplog.at_level(logging.DEBUG, 'jax'), jax.log_compiles():
    yield names


def test_a_run_is_the_same_and_compiles_no_step(
  cfg, saved, runs, compilations, tmp_path
):
  loop.train(cfg, str(tmp_path / 'compiled'))
  assert 'train_step' in compilations()
  before = len(compilations())
  outcome = loop.train(cfg, str(tmp_path / 'loaded'), executable=str(saved))
  assert outcome == advance.Outcome(8, None)
  assert 'train_step' not in compilations()[before:]
  runs.assert_same(tmp_path / 'loaded', tmp_path / 'compiled', 8)


def test_one_that_does_not_fit_is_refused(cfg, saved, monkeypatch, tmp_path):
  """Nothing is compiled that would say so."""
  _, mesh, made_of = lowered(cfg)
  step = executable.load(str(saved), made_of, mesh)
  size = exhausted.step_bytes(step.memory_analysis())
  monkeypatch.setattr(exhausted, '_limit', lambda mesh: size - 1)
  with pytest.raises(ValueError, match='^the step takes'):
    loop.train(cfg, str(tmp_path / 'run'), executable=str(saved))


def test_the_state_stays_in_its_shards_and_is_given_up(cfg, saved):
  _, mesh, made_of = lowered(cfg)
  step = executable.load(str(saved), made_of, mesh)
  tx = optimizer.make_optimizer(cfg)
  shardings = state_lib.state_shardings(cfg, tx, mesh)
  with sharding.use_mesh(mesh, cfg.mesh):
    state = state_lib.init_state(cfg, tx, shardings)
    batch = jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype),
      state_lib.abstract_batch(cfg, cfg.train.batch_size),
    )
    new, _ = step(state, sharding.put_batch(batch, mesh, cfg.mesh))
  kernel = lambda state: state.params['stem']['kernel']
  assert kernel(state).is_deleted()
  jax.tree.map(
    lambda leaf, place: (
      None
      if leaf.sharding.is_equivalent_to(place, leaf.ndim)
      else pytest.fail(f'{leaf.sharding} in place of {place}')
    ),
    new,
    shardings,
  )


@pytest.mark.parametrize(
  'settings, words',
  [
    (['train.batch_size=16'], 'train.batch_size 8 in place of 16'),
    (['stage.unet.num_res_blocks=[2]'], 'stage.unet.num_res_blocks [1]'),
    (['optimizer.b1=0.8'], 'optimizer.b1'),
    (['train.seed=1'], 'train.seed 0 in place of 1'),
    (
      ['mesh.data=2', 'mesh.fsdp=4'],
      "mesh {'data': 4, 'fsdp': 2, 'model': 1} in place of {'data': 2, ",
    ),
  ],
)
def test_another_step_is_refused_by_what_differs(cfg, saved, settings, words):
  _, mesh, made_of = lowered(config_lib.override(cfg, settings))
  with pytest.raises(ValueError) as error:
    executable.load(str(saved), made_of, mesh)
  assert words in str(error.value)
  assert '\n' not in str(error.value)


def test_what_no_step_is_made_of_may_differ(cfg, saved):
  other = config_lib.override(
    cfg, ['train.log_every=7', 'train.keep_checkpoints=9', 'data.prefetch=1']
  )
  _, mesh, made_of = lowered(other)
  assert executable.load(str(saved), made_of, mesh)


def test_devices_in_another_order_are_refused(cfg, saved):
  _, mesh, made_of = lowered(cfg, jax.devices()[::-1])
  with pytest.raises(ValueError, match='lie in another order'):
    executable.load(str(saved), made_of, mesh)


@pytest.mark.parametrize(
  'change, words',
  [
    ({'jax': '0.1'}, '^--executable .* jax 0.1 in place of '),
    ({'libtpu': '0.0.1'}, 'libtpu 0.0.1 in place of None'),
    ({'device': 'TPU v5'}, 'device TPU v5 in place of cpu'),
    ({'program': '0'}, 'imagen_jax was changed since'),
    ({'format': 0}, 'is no compiled step'),
    ({'sha256': '0'}, 'is damaged'),
  ],
)
def test_another_fingerprint_is_refused(cfg, saved, change, words, tmp_path):
  line, _, rest = saved.read_bytes().partition(b'\n')
  head = json.dumps(json.loads(line) | change).encode()
  (tmp_path / 'step').write_bytes(head + b'\n' + rest)
  _, mesh, made_of = lowered(cfg)
  with pytest.raises(ValueError, match=words):
    executable.load(str(tmp_path / 'step'), made_of, mesh)


@pytest.mark.parametrize('cut', [0, 10, -10])
def test_a_part_of_a_file_is_refused(cfg, saved, cut, tmp_path):
  (tmp_path / 'step').write_bytes(saved.read_bytes()[:cut])
  _, mesh, made_of = lowered(cfg)
  with pytest.raises(ValueError, match='is no compiled step|is damaged'):
    executable.load(str(tmp_path / 'step'), made_of, mesh)


def forged(path, head, rest):
  """A file whose bytes are as its first line says."""
  head = head | {'sha256': hashlib.sha256(rest).hexdigest()}
  path.write_bytes(json.dumps(head).encode() + b'\n' + rest)
  return str(path)


@pytest.mark.parametrize(
  'rest',
  [b'', b'rubbish', pickle.dumps(7), pickle.dumps((b'rubbish', None, None))],
  ids=['nothing', 'rubbish', 'a number', 'rubbish within'],
)
def test_rubbish_behind_the_right_fingerprint(cfg, rest, tmp_path):
  _, mesh, made_of = lowered(cfg)
  path = forged(tmp_path / 'step', made_of, rest)
  with pytest.raises(ValueError, match='cannot be loaded here') as error:
    executable.load(path, made_of, mesh)
  assert '\n' not in str(error.value)


def test_a_fingerprint_that_lacks_a_part(cfg, tmp_path):
  _, mesh, made_of = lowered(cfg)
  less = {name: part for name, part in made_of.items() if name != 'places'}
  path = forged(tmp_path / 'step', less, b'')
  with pytest.raises(ValueError, match='is no compiled step'):
    executable.load(path, made_of, mesh)


def test_a_file_that_is_not_there(tiny, monkeypatch, tmp_path, capsys):
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)
  arguments = ['--config', tiny, '--workdir', str(tmp_path / 'run')]
  missing = str(tmp_path / 'none')
  assert main.main(['train', *arguments, '--executable', missing]) == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert said.startswith(f'imagen-jax: --executable {missing} is not there')
