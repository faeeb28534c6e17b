"""Where arrays lie: the mesh, the rules, shardings of states and batches."""

import contextlib
import math

from flax import linen as nn
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import optax

from imagen_jax import config

# Meaning to mesh axis, the only place that maps one to the other. A name of
# an activation comes after 'batch', which has taken 'data' and 'fsdp'.
RULES = (
  ('batch', ('data', 'fsdp')),
  ('height', None),
  ('width', None),
  ('text', None),
  ('channels', 'model'),
  ('embed', 'fsdp'),
  ('conv_out', 'model'),
  ('mlp', 'model'),
  ('heads', 'model'),
  ('vocab', 'model'),
)
BATCH = PartitionSpec(('data', 'fsdp'))


def make_mesh(mesh: config.MeshConfig, devices=None) -> jax.sharding.Mesh:
  """The mesh ('data', 'fsdp', 'model') over all devices of all hosts.

  Raises:
    ValueError: where the sizes do not multiply to the number of devices.
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
  # Explicit axes, JAX's default, would make Linen's logical constraints into
  # assertions.
  auto = (jax.sharding.AxisType.Auto,) * 3
  return jax.make_mesh(
    sizes, ('data', 'fsdp', 'model'), axis_types=auto, devices=devices
  )


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

  def of_moment(leaf, sharding, param):
    return sharding if leaf.shape == param.shape else whole

  return optax.tree_map_params(
    tx,
    of_moment,
    jax.eval_shape(tx.init, params),
    shardings,
    params,
    transform_non_params=lambda _: whole,
  )


def local_rows(mesh, batch_size) -> tuple[int, int]:
  """The rows [start, stop) of a global batch that this host must load.

  Raises:
    ValueError: where the batch does not divide over the mesh.
  """
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size % shards:
    raise ValueError(
      f'train.batch_size is {batch_size}; accepted: multiples of {shards}, '
      'the product of mesh.data and mesh.fsdp'
    )
  indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map(
    (batch_size,)
  )
  bounds = [rows.indices(batch_size)[:2] for (rows,) in indices.values()]
  start, stop = min(b[0] for b in bounds), max(b[1] for b in bounds)
  loaded = sum(b - a for a, b in set(bounds))
  if loaded != stop - start:
    raise ValueError(
      'the rows of a batch on this host are not contiguous; accepted: a '
      'mesh in which the devices of a host neighbour each other'
    )
  return start, stop


def put_batch(batch, mesh):
  """Host-local NumPy rows, a pytree, as global arrays split over the batch."""
  sharding = NamedSharding(mesh, BATCH)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )


@contextlib.contextmanager
def use_mesh(mesh):
  """Within it, `jit` computes on `mesh` and logical names mean `RULES`."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    yield
