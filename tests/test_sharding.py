"""Where arrays lie, and that it changes no number."""

import dataclasses
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.models import layers
from imagen_jax.train import optimizer
from imagen_jax.train import state

UNET = config.UNetConfig(
  design='base',
  channels=(8, 16),
  num_res_blocks=(1, 1),
  self_attention=(False, True),
  text_attention=(False, True),
  head_dim=4,
  embed_dim=8,
  num_groups=4,
  dtype='float32',
)
STAGES = {
  'base': config.StageConfig(image_size=8, unet=UNET),
  'sr': config.StageConfig(
    image_size=8,
    lowres_size=4,
    unet=dataclasses.replace(UNET, design='efficient'),
  ),
}
P = jax.P


def run_of(name):
  text = config.TextConfig(max_length=3, embed_dim=6)
  return config.Config(stage=STAGES[name], text=text)


def mesh_of(*sizes):
  devices = jax.devices()[: math.prod(sizes)]
  return sharding.make_mesh(config.MeshConfig(*sizes), devices)


def shaken(shapes, scale=0.3):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: np.float32(scale * rng.normal(size=s.shape)), shapes
  )


# The mesh.


def test_what_is_left_fills_the_mesh():
  for sizes, expected in [
    ((-1, 2, 2), (2, 2, 2)),
    ((-1, 1, 1), (8, 1, 1)),
    ((2, -1, 1), (2, 4, 1)),
    ((1, 1, 8), (1, 1, 8)),
  ]:
    mesh = sharding.make_mesh(config.MeshConfig(*sizes))
    assert tuple(mesh.shape.values()) == expected
    assert tuple(mesh.shape) == ('data', 'fsdp', 'model')
    assert set(mesh.devices.flat) == set(jax.devices())


@pytest.mark.parametrize('sizes', [(3, 1, 1), (-1, 3, 1), (2, 2, 1), (4, 4, 1)])
def test_refuses_a_mesh_of_another_size(sizes):
  words = r'mesh \(data, fsdp, model\) is .* on 8 devices; accepted: sizes'
  with pytest.raises(ValueError, match=words):
    sharding.make_mesh(config.MeshConfig(*sizes))


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a TPU tells of itself."""

  id: int
  process_index: int
  coords: tuple[int, int, int]
  slice_index: int = 0
  core_on_chip: int = 0
  device_kind: str = 'TPU v4'
  platform: str = 'tpu'


def pod(*torus, num_slices=1):
  """The chips of slices of that shape, in hosts of 2 x 2 x 1."""
  chips = []
  for number in range(num_slices):
    for x, y, z in itertools.product(*map(range, torus)):
      host = (number, z, y // 2, x // 2)
      sizes = (num_slices, torus[2], torus[1] // 2, torus[0] // 2)
      host = int(np.ravel_multi_index(host, sizes))
      chips.append(Chip(len(chips), host, (x, y, z), number))
  return chips


def test_a_torus_need_not_have_the_sizes_asked_for():
  """The base stage's mesh, on the 256 chips that the paper's run had."""
  chips = pod(4, 8, 8)
  mesh = sharding.make_mesh(config.MeshConfig(-1, 16), chips)
  assert tuple(mesh.shape.values()) == (16, 16, 1)
  assert set(mesh.devices.flat) == set(chips)


def test_only_copies_span_slices():
  chips = pod(2, 2, 4, num_slices=2)
  mesh = sharding.make_mesh(config.MeshConfig(-1, 4, 2), chips)
  assert tuple(mesh.shape.values()) == (4, 4, 2)
  for number, part in enumerate(np.split(mesh.devices, 2)):
    assert {chip.slice_index for chip in part.flat} == {number}
  words = 'mesh.data is 1 on 2 slices; accepted: multiples of that'
  with pytest.raises(ValueError, match=words):
    sharding.make_mesh(config.MeshConfig(1, -1), chips)


# Batches.


def test_one_host_loads_all_rows():
  for sizes in ((8, 1, 1), (2, 2, 2), (1, 1, 8)):
    assert list(sharding.local_rows(mesh_of(*sizes), 16)) == list(range(16))


def test_a_host_loads_the_rows_of_its_devices(monkeypatch):
  chips = [Chip(i, i // 4, (i, 0, 0)) for i in range(8)]
  grid = np.array(chips, object).reshape(2, 2, 2)
  mesh = jax.sharding.Mesh(grid, ('data', 'fsdp', 'model'))
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  assert list(sharding.local_rows(mesh, 24)) == list(range(12, 24))
  # Hosts that share a row both load it.
  grid = grid.reshape(1, 1, 8)
  mesh = jax.sharding.Mesh(grid, ('data', 'fsdp', 'model'))
  assert list(sharding.local_rows(mesh, 24)) == list(range(24))


def test_the_rows_of_a_host_may_lie_apart():
  chips = [Chip(i, i % 2, (i, 0, 0)) for i in range(8)]
  grid = np.array(chips, object).reshape(4, 2, 1)
  mesh = jax.sharding.Mesh(grid, ('data', 'fsdp', 'model'))
  rows = [0, 1, 4, 5, 8, 9, 12, 13]
  assert list(sharding.local_rows(mesh, 16)) == rows


def test_refuses_a_batch_that_does_not_divide():
  words = 'train.batch_size is 6; accepted: multiples of 4, the product of'
  with pytest.raises(ValueError, match=words):
    sharding.local_rows(mesh_of(2, 2, 2), 6)


@pytest.mark.parametrize('sizes', [(2, 2, 2), (8, 1, 1), (1, 1, 1)])
def test_put_batch_splits_over_the_batch(sizes):
  mesh = mesh_of(*sizes)
  batch = {'image': np.arange(16.0).reshape(8, 2), 'seed': np.arange(8)}
  found = sharding.put_batch(batch, mesh)
  shards = sizes[0] * sizes[1]
  for name, rows in batch.items():
    np.testing.assert_array_equal(found[name], rows)
    for shard in found[name].addressable_shards:
      assert len(shard.data) == 8 // shards
      np.testing.assert_array_equal(shard.data, rows[shard.index])


# Parameters.


def boxed(**shapes):
  """Abstract parameters by name: (shape, logical axes)."""
  return {
    name: nn.LogicallyPartitioned(
      jax.ShapeDtypeStruct(shape, jnp.float32), axes
    )
    for name, (shape, axes) in shapes.items()
  }


def test_parameters_lie_by_the_rules():
  conv = (None, None, 'embed', 'conv_out')
  found = sharding.param_shardings(
    boxed(
      conv=((3, 3, 8, 16), conv),
      heads=((8, 16), ('embed', 'heads')),
      vocab=((32, 8), ('vocab', 'embed')),
      # Colours: an axis that does not divide stays whole.
      stem=((3, 3, 3, 16), conv),
      odd=((8, 15), ('embed', 'mlp')),
    )
    | {'bias': jax.ShapeDtypeStruct((16,), jnp.float32)},
    mesh_of(2, 2, 2),
  )
  assert {name: s.spec for name, s in found.items()} == {
    'conv': P(None, None, 'fsdp', 'model'),
    'heads': P('fsdp', 'model'),
    'vocab': P('model', 'fsdp'),
    'stem': P(None, None, None, 'model'),
    'odd': P('fsdp', None),
    'bias': P(None),
  }


def test_every_name_of_a_parameter_has_a_rule():
  rules = dict(sharding.RULES)
  for name in STAGES:
    specs = nn.get_partition_spec(state.abstract_params(run_of(name)))
    for spec in jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, P)):
      assert {axis for axis in spec if axis} <= rules.keys()


def test_unbox_takes_off_names_alone():
  found = sharding.unbox(boxed(a=((2, 3), ('embed', 'mlp'))) | {'b': 1})
  assert found == {'a': jax.ShapeDtypeStruct((2, 3), jnp.float32), 'b': 1}


def per_device(shapes, shardings):
  """Bytes of a tree that the busiest device holds."""
  sizes = jax.tree.map(
    lambda s, place: math.prod(place.shard_shape(s.shape)) * s.dtype.itemsize,
    shapes,
    shardings,
  )
  return sum(jax.tree.leaves(sizes))


@pytest.mark.parametrize(
  'name, sizes, devices',
  [
    ('base64', (16, 16, 1), 16),
    ('base64', (8, 8, 4), 32),
    ('sr256', (16, 8, 1), 8),
  ],
)
def test_a_state_of_the_papers_size_is_spread(repo, name, sizes, devices):
  """Of parameters and optimiser, at most 3% lie whole on every device."""
  run = config.load(f'{repo}/configs/{name}.py')
  axes = (jax.sharding.AxisType.Auto,) * 3
  names = ('data', 'fsdp', 'model')
  mesh = jax.sharding.AbstractMesh(sizes, names, axis_types=axes)
  tx = optimizer.make_optimizer(run)
  params = state.abstract_params(run)
  shardings = sharding.param_shardings(params, mesh)
  params = sharding.unbox(params)
  opt_state = jax.eval_shape(tx.init, params)
  opt = sharding.opt_shardings(tx, params, shardings, mesh)
  for shapes, places in ((params, shardings), (opt_state, opt)):
    total = sum(s.size * s.dtype.itemsize for s in jax.tree.leaves(shapes))
    if total > 2**30:  # Adafactor's factored moments are small, and whole.
      assert per_device(shapes, places) < total * (1 / devices + 0.03)
    else:
      assert per_device(shapes, places) < 2**26


# Optimisers.


@pytest.mark.parametrize('name', ['adam', 'adafactor'])
def test_a_moment_lies_where_its_parameter_lies(name):
  """Adafactor's factored moments, and counters, are whole everywhere."""
  mesh = mesh_of(2, 2, 2)
  run = config.Config(optimizer=config.OptimizerConfig(name=name))
  tx = optimizer.make_optimizer(run)
  params = boxed(
    large=((128, 256), ('embed', 'heads')), small=((8, 16), ('embed', 'heads'))
  )
  places = sharding.param_shardings(params, mesh)
  params = sharding.unbox(params)
  opt = sharding.opt_shardings(tx, params, places, mesh)
  shapes = jax.eval_shape(tx.init, params)
  kernel, whole = P('fsdp', 'model'), P()
  seen = set()
  for (path, leaf), place in zip(
    jax.tree.leaves_with_path(shapes), jax.tree.leaves(opt)
  ):
    key = getattr(path[-1], 'key', None)
    split = key in params and leaf.shape == params[key].shape
    assert place.spec == (kernel if split else whole), path
    seen.add((key, leaf.shape))
  if name == 'adam':
    assert {(key, p.shape) for key, p in params.items()} <= seen
  else:
    # Rows and columns of the large kernel; the small one is not factored.
    assert {('large', (128,)), ('large', (256,)), ('small', (8, 16))} <= seen
  # And the optimiser can be born there.
  born = jax.jit(tx.init, out_shardings=opt)(shaken(params))
  assert jax.tree.map(lambda x: x.sharding, born) == opt


# Numbers.


def loss_and_grad(name):
  """(params, batch) -> loss, its gradient and the outputs, jitted."""
  network = state.make_network(STAGES[name])

  def loss(params, batch):
    target, z, logsnr, cond = batch
    out = network.apply({'params': params}, z, logsnr, cond)
    return jnp.mean((out - target) ** 2), out

  # What is compared is the partitioning, not the machine code.
  quick = {'xla_backend_optimization_level': 0}
  return jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=quick)


def batch_of(name):
  keys = iter(jax.random.split(jax.random.key(0), 5))
  image = lambda: jax.random.normal(next(keys), (4, 8, 8, 3))
  mask = jnp.arange(3)[None] < jnp.array([[3], [1], [0], [2]])
  embed = jax.random.normal(next(keys), (4, 3, 6)) * mask[..., None]
  cond = structs.Cond(structs.TextCond(embed, mask))
  if STAGES[name].lowres_size:
    cond = cond.replace(lowres=image(), aug_logsnr=jnp.linspace(-2, 9, 4))
  batch = image(), image(), jnp.linspace(-4, 4, 4), cond
  return jax.tree.map(np.asarray, batch)


@pytest.mark.parametrize('name', STAGES)
def test_eight_devices_compute_what_one_does(name):
  """Outputs and gradients; see `_with_gathered_kernel` of `models/layers`."""
  params = state.abstract_params(run_of(name))
  values, batch = shaken(sharding.unbox(params)), batch_of(name)
  expected = loss_and_grad(name)(values, batch)

  mesh = mesh_of(2, 2, 2)
  places = sharding.param_shardings(params, mesh)
  with sharding.use_mesh(mesh):
    found = loss_and_grad(name)(
      jax.device_put(values, places), sharding.put_batch(batch, mesh)
    )
  (_, out), _ = found
  assert out.sharding.spec[0] == ('data', 'fsdp')

  # The limit is of each leaf's own largest: a gradient that is wrong in one
  # place may be small beside the others.
  def check(one, eight):
    limit = 3e-5 * np.abs(one).max() + 1e-9
    np.testing.assert_allclose(eight, one, rtol=0, atol=limit)

  jax.tree.map(check, *jax.device_get((expected, found)))


def test_the_gradient_of_a_kernel_lies_where_the_kernel_does():
  """Which each device so gets its share of, and never the whole."""
  mesh = mesh_of(2, 2, 2)
  layer = layers.conv(16, dtype=jnp.float32, name=None)
  x = np.ones((4, 4, 4, 8), np.float32)
  boxed = jax.eval_shape(layer.init, jax.random.key(0), x)['params']
  places = sharding.param_shardings(boxed, mesh)
  params = jax.device_put(shaken(sharding.unbox(boxed)), places)

  @jax.jit
  @jax.grad
  def gradient(params, x):
    return jnp.sum(layer.apply({'params': params}, x) ** 2)

  with sharding.use_mesh(mesh):
    found = gradient(params, sharding.put_batch(x, mesh))['kernel']
  assert places['kernel'].spec == P(None, None, 'fsdp', 'model')
  assert found.sharding.is_equivalent_to(places['kernel'], 4)


def test_use_mesh_gives_activations_their_place():
  mesh = mesh_of(2, 2, 2)

  @jax.jit
  def constrained(x):
    axes = ('batch', 'height', 'width', 'channels')
    return nn.with_logical_constraint(2 * x, axes)

  x = jnp.ones((4, 2, 2, 8))
  assert constrained(x).sharding.is_fully_replicated
  with sharding.use_mesh(mesh):
    spec = constrained(x).sharding.spec
  assert spec == P(('data', 'fsdp'), None, None, 'model')


def test_replicated_is_whole_on_every_device():
  place = sharding.replicated(mesh_of(2, 2, 2))
  assert place.is_fully_replicated and len(place.device_set) == 8
