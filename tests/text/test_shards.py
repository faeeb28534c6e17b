"""Every chunk is read once a host, whatever shards share it."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.text import shards
from imagen_jax.text import stored as stored_lib


@pytest.fixture
def mesh():
  return sharding.make_mesh(
    config_lib.MeshConfig(data=2, fsdp=2, model=2), jax.devices()
  )


@pytest.fixture
def small(monkeypatch):
  """Makes chunks of a few bytes count as large ones."""
  monkeypatch.setattr(shards, '_BOX', 1)
  monkeypatch.setattr(shards, '_IN_FLIGHT', 64)


def recorded(shape, chunks):
  """An array of distinct numbers, and the list of what is read of it."""
  value = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
  reads = []

  def read(index):
    reads.append(index)
    return value[index]

  return value, stored_lib.Stored(shape, value.dtype, chunks, read), reads


def elements(reads):
  return sum(math.prod(s.stop - s.start for s in index) for index in reads)


@pytest.mark.parametrize(
  'spec', [P(), P('fsdp'), P(None, 'model'), P('fsdp', 'model'), P('model')]
)
@pytest.mark.parametrize('chunks', [(8, 12), (4, 12), (3, 5), (8, 1)])
def test_shards_are_filled_from_chunks_read_once(mesh, small, spec, chunks):
  value, stored, reads = recorded((8, 12), chunks)
  leaf = jax.ShapeDtypeStruct(
    (8, 12), jnp.float32, sharding=NamedSharding(mesh, spec)
  )
  array = shards.load({'a': stored}, {'a': leaf})['a']
  assert array.sharding == leaf.sharding
  np.testing.assert_array_equal(array, value)
  # All devices are this host's: it reads everything, nothing twice.
  assert elements(reads) == value.size
  assert len(reads) == math.ceil(8 / chunks[0]) * math.ceil(12 / chunks[1])


def test_a_stack_is_read_once_for_all_its_layers(mesh, small):
  value, stack, reads = recorded((8, 3, 4), (4, 3, 2))
  layers = stored_lib.layers(stack)
  place = NamedSharding(mesh, P('fsdp', 'model'))
  leaf = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=place)
  stored = {f'layer_{i}': layer for i, layer in enumerate(layers)}
  arrays = shards.load(stored, dict.fromkeys(stored, leaf))
  for i in range(3):
    np.testing.assert_array_equal(arrays[f'layer_{i}'], value[:, i])
  assert elements(reads) == value.size
  assert len(reads) == 4


def test_a_layer_alone_reads_no_other(small):
  value, stack, reads = recorded((8, 3, 4), (8, 1, 4))
  leaf = jax.ShapeDtypeStruct((8, 4), jnp.float32)
  array = shards.load({'b': stored_lib.layers(stack)[1]}, {'b': leaf})['b']
  np.testing.assert_array_equal(array, value[:, 1])
  assert elements(reads) == 32


def test_only_the_slices_of_this_host_are_read(small, monkeypatch):
  # The second of four hosts, each with a quarter of the rows.
  mesh = sharding.make_mesh(config_lib.MeshConfig(fsdp=4), jax.devices()[:4])
  place = NamedSharding(mesh, P('fsdp'))
  monkeypatch.setattr(
    NamedSharding,
    'addressable_devices_indices_map',
    lambda self, shape: {'here': (slice(2, 4), slice(None))},
  )
  value, stored, reads = recorded((8, 4), (2, 4))
  leaf = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=place)
  part = shards._Shards('a', leaf, None)
  boxes = [box for box in shards._boxes(stored) if part.wants(box)]
  assert boxes == [((2, 4), (0, 4))]
  part.allocate(boxes[0])
  shards._read(stored, boxes[0], (part,))
  (buffer,) = part._buffers.values()
  np.testing.assert_array_equal(buffer, value[2:4])
  assert elements(reads) == 8


def test_dtypes_are_cast_and_small_chunks_are_read_together():
  value, stored, reads = recorded((8, 12), (1, 1))
  leaf = jax.ShapeDtypeStruct((8, 12), jnp.bfloat16)
  array = shards.load({'a': stored}, {'a': leaf})['a']
  np.testing.assert_array_equal(array, jnp.asarray(value, jnp.bfloat16))
  assert len(reads) == 1


def test_an_error_of_storage_ends_the_rest(small):
  _, stored, _ = recorded((8, 4), (2, 4))

  def fail(index):
    raise ValueError('a chunk is gone')

  broken = stored_lib.Stored((8, 4), stored.dtype, (2, 4), fail)
  leaf = jax.ShapeDtypeStruct((8, 4), jnp.float32)
  with pytest.raises(ValueError, match='a chunk is gone'):
    shards.load({'a': stored, 'b': broken}, {'a': leaf, 'b': leaf})
