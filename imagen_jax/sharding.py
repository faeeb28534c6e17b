"""Where arrays lie: the mesh, the rules, shardings of states and batches."""

import contextlib
import functools
import math

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

from imagen_jax import config


def batch_axes(layout: config.MeshConfig) -> tuple[str, ...]:
  """The mesh axes that split a batch: those that split no image."""
  spatial = (layout.height, layout.width)
  return tuple(axis for axis in ('data', 'fsdp') if axis not in spatial)


def rules(layout: config.MeshConfig) -> tuple:
  """Meaning to mesh axis, the only place that maps one to the other.

  A name of an activation comes after 'batch', 'height' and 'width', which have
  taken 'data' and 'fsdp'.
  """
  axis = lambda name: None if name == 'none' else name
  return (
    ('batch', batch_axes(layout) or None),
    ('height', axis(layout.height)),
    ('width', axis(layout.width)),
    ('text', None),
    ('channels', 'model'),
    ('embed', 'fsdp'),
    ('conv_out', 'model'),
    ('mlp', 'model'),
    ('heads', 'model'),
    ('vocab', 'model'),
  )


def batch_spec(layout: config.MeshConfig) -> PartitionSpec:
  """How the first axis of a batch's arrays lies."""
  return PartitionSpec(batch_axes(layout))


# Where images are not split.
RULES = rules(config.MeshConfig())
BATCH = batch_spec(config.MeshConfig())


def make_mesh(mesh: config.MeshConfig, devices=None) -> jax.sharding.Mesh:
  """The mesh ('data', 'fsdp', 'model') over all devices of all hosts.

  Raises:
    ValueError: where the sizes do not multiply to the number of devices, or
      the copies of the model do not divide over the slices of a multislice.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [mesh.data, mesh.fsdp, mesh.model]
  known = math.prod(size for size in sizes if size != -1)
  if -1 in sizes and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if math.prod(sizes) != len(devices):
    raise ValueError(
      f'mesh (data, fsdp, model) is {mesh.data, mesh.fsdp, mesh.model} on '
      f'{len(devices)} devices; accepted: sizes whose product is that'
    )
  # A pod's torus seldom has the sizes asked for: 16 x 16 on 4 x 8 x 8 needs a
  # physical axis to be split, which `jax.make_mesh` refuses on most chips.
  order = functools.partial(
    mesh_utils.create_device_mesh, allow_split_physical_axes=True
  )
  slices = {getattr(device, 'slice_index', 0) for device in devices}
  if len(slices) > 1:
    if sizes[0] % len(slices):
      raise ValueError(
        f'mesh.data is {sizes[0]} on {len(slices)} slices; accepted: '
        'multiples of that, since only copies of the model span slices'
      )
    inside = [sizes[0] // len(slices), *sizes[1:]]
    parts = [
      order(inside, [d for d in devices if d.slice_index == number])
      for number in sorted(slices)
    ]
    grid = np.concatenate(parts)
  else:
    grid = order(sizes, devices)
  # Explicit axes, JAX's default, would make Linen's logical constraints into
  # assertions.
  auto = (jax.sharding.AxisType.Auto,) * 3
  return jax.sharding.Mesh(grid, ('data', 'fsdp', 'model'), axis_types=auto)


def replicated(mesh):
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def unbox(tree):
  """A tree of Linen parameters without the boxes that name their axes."""
  is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)

  def bare(leaf):
    # The box's own unboxing would constrain the leaf to the current mesh,
    # which an abstract leaf cannot be.
    return leaf.unbox(apply_constraint=False) if is_box(leaf) else leaf

  return jax.tree.map(bare, tree, is_leaf=is_box)


def param_shardings(abstract, mesh):
  """Shardings of boxed abstract parameters, unboxed, by `RULES`.

  An axis whose size the mesh axis does not divide stays whole: a bias of 3
  output channels is not worth padding.

  Args:
    abstract: the result of `jax.eval_shape` on a Linen init.
    mesh: from `make_mesh`.
  """
  specs = nn.logical_to_mesh(nn.get_partition_spec(abstract), RULES)

  def fit(leaf, spec):
    axes = []
    for size, names in zip(leaf.shape, tuple(spec) + (None,) * leaf.ndim):
      group = (names,) if isinstance(names, str) else names or ()
      shards = math.prod(mesh.shape[name] for name in group)
      axes.append(names if size % shards == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree.map(fit, unbox(abstract), specs)


def without_fsdp(shardings):
  """Shardings, as of `param_shardings`, of the same arrays gathered by FSDP."""

  def gathered(place):
    axes = tuple(None if axis == 'fsdp' else axis for axis in place.spec)
    return NamedSharding(place.mesh, PartitionSpec(*axes))

  return jax.tree.map(gathered, shardings)


def opt_shardings(tx, params, shardings, mesh):
  """Shardings of `tx.init(params)`: a moment lies where its parameter lies.

  Leaves of another shape than their parameter (Adafactor's factored moments)
  and leaves that belong to no parameter (counters) are replicated.

  Args:
    tx: an Optax transformation.
    params: abstract, unboxed parameters.
    shardings: theirs, from `param_shardings`.
    mesh: from `make_mesh`.
  """
  whole = replicated(mesh)

  # In the place of a parameter that a part of the optimiser leaves out.
  is_left_out = lambda leaf: isinstance(leaf, optax.MaskedNode)

  def of_moment(leaf, sharding, param):
    if is_left_out(leaf):
      return leaf
    return sharding if leaf.shape == param.shape else whole

  return optax.tree_map_params(
    tx,
    of_moment,
    jax.eval_shape(tx.init, params),
    shardings,
    params,
    transform_non_params=lambda _: whole,
    is_leaf=is_left_out,
  )


def whole_copies(tree, mesh) -> list[tuple[str, int]]:
  """What every device holds whole though it could be shared, largest first.

  Args:
    tree: arrays, or abstract ones with shardings.
    mesh: theirs.

  Returns:
    (path, bytes) of each such leaf; none where there is one device.
  """
  if mesh.size == 1:
    return []
  found = [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if leaf.sharding.is_fully_replicated
  ]
  sizes = [(path, leaf.size * leaf.dtype.itemsize) for path, leaf in found]
  return sorted(sizes, key=lambda entry: (-entry[1], entry[0]))


def num_batch_shards(mesh, layout: config.MeshConfig) -> int:
  """In how many parts a batch is split."""
  return math.prod(mesh.shape[axis] for axis in batch_axes(layout))


def _local_shards(mesh, layout) -> np.ndarray:
  """Which shards of a batch lie on this host's devices, ascending."""
  here = np.vectorize(lambda d: d.process_index == jax.process_index())
  others = [
    number
    for number, axis in enumerate(mesh.axis_names)
    if axis not in batch_axes(layout)
  ]
  return np.flatnonzero(here(mesh.devices).any(axis=tuple(others)).ravel())


def local_rows(mesh, batch_size, layout=None) -> np.ndarray:
  """The rows of a global batch that this host must load, ascending.

  They need not be neighbours: on a torus a host's chips may lie apart in the
  mesh.

  Args:
    mesh: from `make_mesh`.
    batch_size: of the global batch.
    layout: the `MeshConfig`; None is one that splits no image.

  Raises:
    ValueError: where the batch does not divide over the mesh.
  """
  layout = layout or config.MeshConfig()
  shards = num_batch_shards(mesh, layout)
  if batch_size % shards:
    axes = ' and '.join(f'mesh.{axis}' for axis in batch_axes(layout))
    raise ValueError(
      f'train.batch_size is {batch_size}; accepted: multiples of {shards}, '
      f'the product of {axes}'
    )
  rows = np.arange(batch_size).reshape(shards, -1)
  return rows[_local_shards(mesh, layout)].ravel()


def rows_place(mesh, layout: config.MeshConfig, count: int):
  """Where `count` rows lie that every host has: split, if they divide."""
  if count % num_batch_shards(mesh, layout):
    return replicated(mesh)
  return NamedSharding(mesh, batch_spec(layout))


def put_batch(batch, mesh, layout=None):
  """The rows of `local_rows`, a NumPy pytree, as arrays over the mesh.

  Pictures are whole on each device that has a part of them to compute: it is
  the network's activations that are large.
  """
  layout = layout or config.MeshConfig()
  sharding = NamedSharding(mesh, batch_spec(layout))
  shards = num_batch_shards(mesh, layout)
  mine = _local_shards(mesh, layout)

  def put(rows):
    each = len(rows) // len(mine)

    def of_shard(index):
      shard = (index[0].start or 0) // each
      start = np.searchsorted(mine, shard) * each
      return rows[start : start + each]

    shape = (each * shards, *rows.shape[1:])
    return jax.make_array_from_callback(shape, sharding, of_shard)

  return jax.tree.map(put, batch)


def take_batch(array, mesh) -> np.ndarray:
  """The rows of `local_rows` of an array over the mesh: `put_batch` undone."""
  layout = config.MeshConfig()
  mine = _local_shards(mesh, layout).tolist()
  each = len(array) // num_batch_shards(mesh, layout)
  found = {}
  for shard in array.addressable_shards:
    # An array that is whole everywhere has all rows in every shard.
    start = shard.index[0].start or 0
    for number in mine:
      offset = number * each - start
      if 0 <= offset < len(shard.data) and number not in found:
        found[number] = np.asarray(shard.data[offset : offset + each])
  return np.concatenate([found[number] for number in mine])


@contextlib.contextmanager
def use_mesh(mesh, layout=None):
  """Within it, `jit` computes on `mesh` and logical names mean `rules`.

  Args:
    mesh: from `make_mesh`.
    layout: the `MeshConfig`; None is one that splits no image.
  """
  logical = rules(layout or config.MeshConfig())
  with jax.set_mesh(mesh), nn.logical_axis_rules(logical):
    yield
