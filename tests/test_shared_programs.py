"""Runs share a program where it is the same, and in no other case."""

import os

import jax
import pytest
import shared_programs

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import guard
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


def test_compiled_programs_are_kept_where_conftest_says():
  """JAX was not imported before, by a plugin or by what conftest imports."""
  kept = os.environ['JAX_COMPILATION_CACHE_DIR']
  assert jax.config.jax_compilation_cache_dir == kept


def made(tiny, *assignments):
  """A run's programs: its step, its first state, a step passed over."""
  cfg = config_lib.override(config_lib.load(tiny), assignments)
  mesh = sharding.make_mesh(cfg.mesh)
  tx = optimizer.make_optimizer(cfg)
  shardings = state_lib.state_shardings(cfg, tx, mesh)
  state = state_lib.abstract_state(cfg, tx, shardings)
  with jax.set_mesh(mesh):
    step = step_lib.lower_step(cfg, tx, state, mesh)
  return (
    step,
    state_lib.compile_init(cfg, tx, shardings),
    guard.compile_pass(shardings),
  )


@pytest.fixture
def plain(tiny):
  with shared_programs.shared():
    yield made(tiny)


@pytest.mark.parametrize(
  'assignments',
  [
    [],
    ['train.num_steps=4'],
    ['train.checkpoint_every=1', 'train.sample_every=8', 'train.log_every=1'],
    ['data.tasks.some.rate=6', 'text.store=elsewhere'],
  ],
)
def test_what_a_step_does_not_depend_on(assignments, tiny, plain):
  assert all(a is b for a, b in zip(made(tiny, *assignments), plain))


@pytest.mark.parametrize(
  'assignments',
  [
    ['train.seed=1'],
    ['train.ema_decay=0.5'],
    ['train.microbatches=2', 'train.batch_size=16'],
    ['train.module_norms=true'],
    ['optimizer.learning_rate=0.5'],
    ['optimizer.decay=cosine'],
    ['guard.policy=skip'],
    ['stage.diffusion.prediction=eps'],
    ['mesh.fsdp=2'],
    ['mesh.data=2', 'mesh.fsdp=2', 'mesh.model=2'],
  ],
)
def test_what_a_step_depends_on(assignments, tiny, plain):
  assert all(a is not b for a, b in zip(made(tiny, *assignments)[:2], plain))


def test_another_step_in_the_place_of_ours(tiny, plain, monkeypatch):
  monkeypatch.setattr(step_lib, 'train_step', lambda *args, **kwargs: None)
  assert made(tiny)[0] is not plain[0]


def test_the_number_of_steps_where_the_rate_depends_on_it(tiny, plain):
  cosine = made(tiny, 'optimizer.decay=cosine')
  shorter = made(tiny, 'optimizer.decay=cosine', 'train.num_steps=4')
  assert cosine[0] is not shorter[0]


def test_nothing_is_shared_where_no_one_asks(tiny):
  first, second = made(tiny), made(tiny)
  assert first[0] is not second[0]
  assert isinstance(first[0], jax.stages.Lowered)
