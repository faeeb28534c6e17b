"""Activations split by rows or columns of the image: the same numbers."""

import dataclasses
import functools
import math

import jax
import numpy as np
import optax
import pytest

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

BASE = config.UNetConfig(
  channels=(8, 8),
  num_res_blocks=(1, 1),
  self_attention=(False, True),
  text_attention=(False, True),
  head_dim=4,
  embed_dim=8,
  num_groups=4,
  remat=False,
  dtype='float32',
)
# The Efficient U-Net's coarsest level is 4 pixels high, the base's 8.
STAGES = {
  'base': config.StageConfig(image_size=16, unet=BASE),
  'sr': config.StageConfig(
    image_size=16,
    lowres_size=4,
    unet=dataclasses.replace(BASE, design='efficient'),
    sample=config.SampleConfig(sampler='ddim', num_steps=2),
  ),
}
LAYOUTS = {
  # A row of the coarsest level a device: all of its attention crosses them.
  'height': config.MeshConfig(data=2, fsdp=4, height='fsdp'),
  # More devices than rows at the coarsest level, which stays whole.
  'height of one image': config.MeshConfig(data=1, fsdp=8, height='fsdp'),
  'both': config.MeshConfig(
    data=2, fsdp=2, model=2, height='fsdp', width='data'
  ),
}
# What is compared is the partitioning, not the machine code.
QUICK = {'xla_backend_optimization_level': 0}


def run_of(name):
  return config.Config(
    stage=STAGES[name],
    text=config.TextConfig(max_length=3, embed_dim=6),
    train=config.TrainConfig(batch_size=2),
  )


def batch_of(name):
  rng = np.random.default_rng(1)
  normal = lambda *shape: np.float32(rng.normal(size=shape))
  mask = np.arange(3)[None] < np.array([[3], [1]])
  text = structs.TextCond(normal(2, 3, 6) * mask[..., None], mask)
  batch = structs.Batch(np.tanh(normal(2, 16, 16, 3)), text)
  if STAGES[name].lowres_size:
    batch = batch.replace(lowres=np.tanh(normal(2, 4, 4, 3)))
  return batch


def shaken(shapes):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: np.float32(0.3 * rng.normal(size=s.shape)), shapes
  )


def step_of(name):
  """(params, batch) -> the gradient, loss and gradient's norm of a step.

  A training step whose optimiser keeps the gradient itself: Adam would divide
  it by its own size, and so blow up what is nearly 0.
  """
  tx = optax.trace(decay=0.0)

  def step(params, batch):
    state = state_lib.TrainState(0, params, params, tx.init(params))
    after, metrics = step_lib.train_step(
      state, batch, config=run_of(name), tx=tx
    )
    return after.opt_state.trace, metrics['loss'], metrics['grad_norm']

  return jax.jit(step, compiler_options=QUICK)


@functools.cache
def alone(name):
  params = sharding.unbox(state_lib.abstract_params(run_of(name)))
  return jax.device_get(step_of(name)(shaken(params), batch_of(name)))


def mesh_of(layout):
  sizes = math.prod((layout.data, layout.fsdp, layout.model))
  return sharding.make_mesh(layout, jax.devices()[:sizes])


@pytest.mark.parametrize('name', STAGES)
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_a_step_on_split_images_is_the_step(name, layout):
  """Loss, the gradient by every parameter, and its norm."""
  boxed = state_lib.abstract_params(run_of(name))
  mesh = mesh_of(layout)
  places = sharding.param_shardings(boxed, mesh)
  with sharding.use_mesh(mesh, layout):
    found = step_of(name)(
      jax.device_put(shaken(sharding.unbox(boxed)), places),
      sharding.put_batch(batch_of(name), mesh, layout),
    )

  # Of each leaf's own largest, as a gradient wrong in one place may be small
  # beside the others.
  def check(one, eight):
    limit = 3e-5 * np.abs(one).max() + 1e-9
    np.testing.assert_allclose(eight, one, rtol=0, atol=limit)

  jax.tree.map(check, alone(name), jax.device_get(found))


def test_rows_are_where_the_layout_has_them():
  """The network's program has convolutions of a band of the image."""
  name, layout = 'sr', LAYOUTS['height']
  mesh, batch = mesh_of(layout), batch_of(name)
  boxed = state_lib.abstract_params(run_of(name))
  places = sharding.param_shardings(boxed, mesh)
  params = jax.device_put(shaken(sharding.unbox(boxed)), places)

  def loss(params, batch):
    keys = step_lib.step_keys(0, 0)
    return step_lib.loss_fn(params, batch, keys, run_of(name))[0]

  def convolved(layout):
    with sharding.use_mesh(mesh, layout):
      placed = sharding.put_batch(batch, mesh, layout)
      lowered = jax.jit(loss).lower(params, placed)
      text = lowered.compile(compiler_options=QUICK).as_text()
    lines = [line for line in text.splitlines() if ' convolution(' in line]
    return {
      tuple(int(n) for n in line.split('[')[1].split(']')[0].split(','))[1:3]
      for line in lines
    }

  assert {(4, 16), (2, 8), (1, 4)} <= convolved(layout)
  assert all(height != 16 for height, _ in convolved(layout))


@pytest.mark.parametrize('layout', [LAYOUTS['height']], ids=['height'])
def test_samples_on_split_images_are_the_samples(layout):
  stage, batch = STAGES['sr'], batch_of('sr')
  boxed = state_lib.abstract_params(run_of('sr'))
  params = shaken(sharding.unbox(boxed))

  def draw(params, text, lowres):
    keys = jax.random.split(jax.random.key(0), 2)
    apply = state_lib.bind(stage, params)
    return cascade.sample_stage(apply, keys, text, lowres, stage)

  # A jit of its own each: a traced program remembers its layout.
  fresh = lambda: jax.jit(lambda *args: draw(*args), compiler_options=QUICK)
  expected = fresh()(params, batch.text, batch.lowres)
  mesh = mesh_of(layout)
  with sharding.use_mesh(mesh, layout):
    placed = sharding.put_batch(batch, mesh, layout)
    params = jax.device_put(params, sharding.param_shardings(boxed, mesh))
    found = fresh()(params, placed.text, placed.lowres)
  assert np.std(expected) > 0.1
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_who_loads_what():
  """The axis that splits images splits no batch."""
  for layout, shards in (
    (LAYOUTS['height'], 2),
    (LAYOUTS['height of one image'], 1),
    (LAYOUTS['both'], 1),
    (config.MeshConfig(2, 4, 1, width='data'), 4),
  ):
    mesh = mesh_of(layout)
    assert sharding.num_batch_shards(mesh, layout) == shards
    assert list(sharding.local_rows(mesh, 8, layout)) == list(range(8))
    rows = np.arange(16.0).reshape(8, 2)
    placed = sharding.put_batch(rows, mesh, layout)
    np.testing.assert_array_equal(placed, rows)
    assert {len(s.data) for s in placed.addressable_shards} == {8 // shards}


def test_refuses_a_batch_that_does_not_divide():
  layout = LAYOUTS['height']
  words = 'batch_size is 3; accepted: multiples of 2, the product of mesh.data'
  with pytest.raises(ValueError, match=words):
    sharding.local_rows(mesh_of(layout), 3, layout)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'height': 'model'}, "mesh.height is 'model'; accepted: 'none', 'data'"),
    ({'width': ''}, "mesh.width is ''; accepted: 'none', 'data', 'fsdp'"),
    (
      {'height': 'data', 'width': 'data'},
      "mesh.height and mesh.width are both 'data'; accepted: an axis of its",
    ),
  ],
)
def test_refuses_a_layout_that_cannot_be(changes, words):
  with pytest.raises(ValueError, match=words):
    config.MeshConfig(**changes)
