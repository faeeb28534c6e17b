"""A device's memory: too small for the state, or found so by XLA."""

import contextlib
import re
import types

import jax
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.cli import main
from imagen_jax.data import loader as loader_lib
from imagen_jax.train import exhausted
from imagen_jax.train import loop
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


def run_of(tiny, *assignments):
  """what `exhausted` is asked about: config, optimiser, mesh."""
  cfg = config_lib.override(config_lib.load(tiny), assignments)
  return cfg, optimizer.make_optimizer(cfg), sharding.make_mesh(cfg.mesh)


def state_bytes(run):
  cfg, tx, mesh = run
  state = state_lib.init_state(
    cfg, tx, state_lib.state_shardings(cfg, tx, mesh)
  )
  device = mesh.devices.flat[0]
  return sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(state)
    for shard in leaf.addressable_shards
    if shard.device == device
  )


@pytest.fixture
def limit(monkeypatch):
  """Has each device say that it has so many bytes."""

  def of(size):
    monkeypatch.setattr(exhausted, '_limit', lambda mesh: size)

  return of


def test_the_limit_is_that_of_the_smallest_device():
  class Device:
    def __init__(self, stats):
      self.memory_stats = lambda: stats

  class Mesh:
    local_devices = [
      Device({'bytes_limit': 5}),
      Device({'bytes_limit': 3}),
      Device(None),
      Device({}),
    ]

  assert exhausted._limit(Mesh) == 3
  Mesh.local_devices = Mesh.local_devices[2:]
  assert exhausted._limit(Mesh) is None


@pytest.mark.parametrize('fsdp', [1, 4])
def test_a_state_that_does_not_fit_is_refused(fsdp, tiny, limit):
  """By what its shards take, and not where it just fits."""
  run = run_of(tiny, f'mesh.fsdp={fsdp}')
  size = state_bytes(run)
  limit(size)
  exhausted.check(*run)
  limit(size - 1)
  words = (
    rf'^the state takes .* GiB of a device that has .* GiB; accepted: '
    rf'mesh.fsdp={2 * fsdp} about .* GiB; more or larger devices$'
  )
  with pytest.raises(ValueError, match=words):
    exhausted.check(*run)


def test_it_is_refused_before_anything_is_made(tiny, limit, tmp_path):
  limit(1)
  with pytest.raises(ValueError, match='the state takes'):
    loop.train(config_lib.load(tiny), str(tmp_path / 'run'))
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


@pytest.fixture(scope='module')
def compiled(tiny):
  """The tiny run's step, and what `exhausted` is asked about."""
  cfg, tx, mesh = run = run_of(tiny)
  shardings = state_lib.state_shardings(cfg, tx, mesh)
  state = state_lib.abstract_state(cfg, tx, shardings)
  with sharding.use_mesh(mesh, cfg.mesh):
    return step_lib.lower_step(cfg, tx, state, mesh).compile(), run


def test_a_step_takes_more_than_its_state(compiled):
  step, run = compiled
  assert exhausted.step_bytes(step.memory_analysis()) > state_bytes(run)


@pytest.mark.parametrize('others', [0, 2**20])
def test_a_step_that_does_not_fit_is_refused(
  others, compiled, limit, monkeypatch
):
  """By what its compiler says, and not where it just fits.

  The state is part of what it takes, and of what is taken.
  """
  step, run = compiled
  stats = step.memory_analysis()
  state = max(state_bytes(run), stats.alias_size_in_bytes)
  monkeypatch.setattr(exhausted, '_taken', lambda mesh: state + others)
  size = exhausted.step_bytes(stats) + others
  limit(size)
  exhausted.check_step(step, *run)
  limit(size - 1)
  beside = ', of which .* GiB is taken' if others else ''
  words = (
    rf'^the step takes [^,]* GiB of a device that has [^,]* GiB{beside}; '
    r'the state takes .*, activations about .*; what buys how much of a '
    r'device: stage.unet.remat=true .* about .* GiB; mesh.fsdp=2 about .* GiB$'
  )
  with pytest.raises(ValueError, match=words):
    exhausted.check_step(step, *run)


def test_a_device_that_tells_nothing_is_left_alone(compiled, limit):
  step, run = compiled
  limit(None)
  exhausted.check_step(step, *run)


def test_the_fullest_device_counts():
  class Mesh:
    local_devices = [
      types.SimpleNamespace(memory_stats=lambda: {'bytes_in_use': 5}),
      types.SimpleNamespace(memory_stats=lambda: {'bytes_in_use': 7}),
      types.SimpleNamespace(memory_stats=lambda: None),
    ]

  assert exhausted._taken(Mesh) == 7


def test_a_step_is_refused_before_anything_is_read(
  tiny, limit, monkeypatch, tmp_path
):
  """Where the state alone fits."""

  def refuse(*args):
    raise AssertionError('read for a step that does not fit')

  monkeypatch.setattr(loader_lib.Loader, '__next__', refuse)
  limit(state_bytes(run_of(tiny)))
  with pytest.raises(ValueError, match='^the step takes'):
    loop.train(config_lib.load(tiny), str(tmp_path / 'run'))
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def amount(said, lever):
  return float(re.search(rf'{lever} about ([\d.e-]+) GiB', said)[1]) * 2**30


def test_what_would_help_is_told_with_sizes(tiny):
  run = run_of(tiny, 'train.batch_size=32', 'mesh.fsdp=2')
  said = exhausted.advice(*run)
  activations = amount(said, 'activations')
  assert amount(said, 'microbatches=2') == pytest.approx(
    activations / 2, rel=0.02
  )
  more = run_of(tiny, 'train.batch_size=32', 'mesh.fsdp=4')
  saved = state_bytes(run) - state_bytes(more)
  assert amount(said, 'mesh.fsdp=4') == pytest.approx(saved, rel=0.02)
  remat = [
    'stage.unet.remat=true',
    'stage.unet.remat_policy=["full"]',
    'train.batch_size=32',
    'mesh.fsdp=2',
  ]
  least = exhausted.advice(*run_of(tiny, *remat))
  assert 'remat' not in least
  lever = r'remat=true stage.unet.remat_policy=\["full"\]'
  assert amount(said, lever) == pytest.approx(
    activations - amount(least, 'activations'), rel=0.05
  )


def test_with_nothing_left_to_pull(tiny):
  most = ['mesh.data=1', 'mesh.fsdp=8', 'stage.unet.remat=true']
  assert exhausted.advice(*run_of(tiny, *most)).endswith(
    'more or larger devices'
  )


@pytest.mark.parametrize('when', ['compiled', 'run'])
def test_xlas_error_is_one_line(when, tiny, monkeypatch, tmp_path, capsys):
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)

  def full(*_):
    raise jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nx'
    )

  class Program:
    """It is too much for the compiler, or not before it runs."""

    compile = full if when == 'compiled' else lambda self: full

  monkeypatch.setattr(loop.step_lib, 'lower_step', lambda *_: Program())
  flags = ['--config', tiny, '--workdir', str(tmp_path / 'run')]
  assert main.main(['train', *flags]) == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert said.startswith(
    'imagen-jax: a device has too little memory (Out of memory while trying to '
    'allocate 9 bytes. x); the state takes '
  )
  assert 'what buys how much of a device: stage.unet.remat=true' in said


def test_other_errors_are_left_alone(tiny):
  with pytest.raises(jax.errors.JaxRuntimeError, match='^INTERNAL'):
    with contextlib.ExitStack() as stack:
      stack.enter_context(exhausted.explained(*run_of(tiny)))
      raise jax.errors.JaxRuntimeError('INTERNAL: x')
