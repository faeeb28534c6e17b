"""How the state is born, and where it lies."""

import jax
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import optimizer
from imagen_jax.train import reports
from imagen_jax.train import state as state_lib


def born(cfg):
  """The abstract and the real state on the config's mesh."""
  mesh = sharding.make_mesh(cfg.mesh)
  tx = optimizer.make_optimizer(cfg)
  with sharding.use_mesh(mesh):
    shardings = state_lib.state_shardings(cfg, tx, mesh)
    abstract = state_lib.abstract_state(cfg, tx, shardings)
    return abstract, state_lib.init_state(cfg, tx, shardings)


@pytest.fixture(scope='module')
def sharded(tiny):
  return born(
    config_lib.override(
      config_lib.load(tiny), ['mesh.data=2', 'mesh.fsdp=2', 'mesh.model=2']
    )
  )


def scanned(tiny):
  """The tiny run with blocks that repeat; unscanned and scanned."""
  plain = config_lib.override(
    config_lib.load(tiny), ['stage.unet.num_res_blocks=[3]']
  )
  return plain, config_lib.override(plain, ['stage.unet.scan=[true]'])


def test_a_state_does_not_depend_on_what_is_scanned(tiny):
  """So checkpoints restore into either, and exports are unscanned."""

  def shapes(cfg):
    tx = optimizer.make_optimizer(cfg)
    return jax.eval_shape(lambda: state_lib._init(cfg, tx, jax.random.key(0)))

  plain, loops = map(shapes, scanned(tiny))
  assert plain == loops
  assert 'down0_res2' in plain.params
  # And a run may change it when it resumes.
  assert not config_lib.differences(*scanned(tiny))


def test_a_bound_network_scans_where_the_config_has_it(tiny):
  for cfg, loops in zip(scanned(tiny), (False, True)):
    params = sharding.unbox(state_lib.abstract_params(cfg))
    apply = lambda p, x, stage=cfg.stage: state_lib.bind(stage, p)(*x)
    jaxpr = jax.make_jaxpr(apply)(params, state_lib.example_inputs(cfg))
    assert ('scan[' in str(jaxpr)) == loops


def test_a_state_is_what_the_abstract_one_says(sharded):
  abstract, state = sharded

  def check(wanted, leaf):
    assert (wanted.shape, wanted.dtype) == (leaf.shape, leaf.dtype)
    assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)

  jax.tree.map(check, abstract, state)
  assert int(state.step) == 0


def test_a_state_is_born_in_shards(sharded):
  _, state = sharded
  for tree in (state.params, state.ema_params, state.opt_state):
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    held = sum(
      leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)
    )
    assert held < 0.5 * whole


def test_the_average_starts_as_a_copy(sharded):
  _, state = sharded
  jax.tree.map(np.testing.assert_array_equal, state.params, state.ema_params)
  pointers = lambda tree: {
    shard.data.unsafe_buffer_pointer()
    for leaf in jax.tree.leaves(tree)
    for shard in leaf.addressable_shards
  }
  assert not pointers(state.params) & pointers(state.ema_params)


def test_parameters_depend_on_the_seed_and_not_on_the_mesh(tiny, sharded):
  _, state = sharded
  cfg = config_lib.load(tiny)
  _, same = born(cfg)
  _, other = born(config_lib.override(cfg, ['train.seed=1']))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
  jax.tree.map(close, state.params, same.params)
  differ = jax.tree.map(lambda a, b: bool((a != b).any()), same, other)
  assert any(jax.tree.leaves(differ.params))


def test_further_averages_lie_as_parameters_do(tiny, sharded):
  abstract, _ = sharded
  assert abstract.ema_powers == {}
  changes = ['mesh.data=2', 'mesh.fsdp=2', 'mesh.model=2']
  cfg = config_lib.override(
    config_lib.load(tiny), [*changes, 'train.ema_lengths=[0.05,0.1]']
  )
  mesh = sharding.make_mesh(cfg.mesh)
  tx = optimizer.make_optimizer(cfg)
  shardings = state_lib.state_shardings(cfg, tx, mesh)
  found = state_lib.abstract_state(cfg, tx, shardings)
  assert list(found.ema_powers) == ['0.05', '0.1']
  for average in found.ema_powers.values():
    assert average == abstract.params
  assert found.replace(ema_powers={}) == abstract


@pytest.mark.parametrize('row, has_lowres', [('base', False), ('sr', True)])
def test_example_inputs_are_the_stages(tiny, row, has_lowres):
  cfg = config_lib.load(f'{tiny}:{row}')
  z, logsnr, cond = state_lib.example_inputs(cfg, 3)
  size = cfg.stage.image_size
  assert z.shape == (3, size, size, 3)
  assert logsnr.shape == (3,)
  assert cond.text.embed.shape == (3, 6, 8)
  assert (cond.lowres is not None) == has_lowres


def test_what_is_whole_on_every_device_is_told_where_it_is_much(sharded):
  abstract, state = sharded
  mesh = jax.tree.leaves(state)[0].sharding.mesh
  copies = sharding.whole_copies(abstract, mesh)
  assert copies == sharding.whole_copies(state, mesh)
  assert ('step', 4) in copies
  assert not reports.warn_of_copies(state, mesh)
  whole = jax.device_put(state.params, sharding.replicated(mesh))
  said = reports.warn_of_copies(state.replace(params=whole), mesh)
  largest = max(jax.tree.leaves(whole), key=lambda x: x.nbytes)
  assert 'the largest: params/' in said
  assert f'({largest.nbytes:,} bytes)' in said
  # Nothing could be shared with others, or was asked to be.
  one = sharding.make_mesh(config_lib.MeshConfig(), jax.devices()[:1])
  assert not sharding.whole_copies(state, one)
  copies = sharding.make_mesh(config_lib.MeshConfig())
  everything = jax.device_put(state, sharding.replicated(copies))
  found = sharding.whole_copies(everything, copies)
  assert len(found) == len(jax.tree.leaves(state))
  assert not reports.warn_of_copies(everything, copies)
