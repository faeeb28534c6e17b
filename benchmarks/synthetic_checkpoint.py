"""T5X checkpoints of any size, of random weights, written in seconds.

What T5X would write for an encoder: a msgpack index beside one Zarr folder a
parameter, gzip at level 1, chunks of at most 64 MiB that divide the shape.
Arrays of one shape hold the same random numbers and are hard links of one
another, so that twenty-four layers take the time and the disk of one.
"""

import math
import os
import pathlib

from flax import serialization
import jax
import numpy as np
import tensorstore as ts

from imagen_jax import sharding
from imagen_jax.text import encoders

_CHUNK_BYTES = 2**26


def chunk_shape(shape, itemsize) -> list[int]:
  """Halves the longest axis until a chunk has at most 64 MiB, as T5X does."""
  chunk = list(shape)
  while math.prod(chunk) * itemsize > _CHUNK_BYTES:
    axis = max(range(len(chunk)), key=lambda i: (chunk[i] % 2 == 0, chunk[i]))
    chunk[axis] //= 2
  return chunk


def shapes(row: encoders.Encoder) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of an encoder's parameters in a checkpoint, by name.

  Those of a `split_heads` encoder are stacked, as umT5's are.
  """
  leaves = jax.tree.leaves_with_path(
    sharding.unbox(encoders.abstract_params(row))
  )
  found = {
    '/'.join(key.key for key in path): leaf.shape for path, leaf in leaves
  }
  if not row.split_heads:
    return found
  stacked = {}
  for name, shape in found.items():
    if name.startswith('encoder/layers_'):
      name = 'encoder/encoder/' + name.split('/', 2)[2]
      shape = (shape[0], row.num_layers, *shape[1:])
    stacked[name] = shape
  return stacked


def write(folder: pathlib.Path, row: encoders.Encoder) -> int:
  """Writes a float32 checkpoint; returns its parameters' bytes."""
  rng = np.random.default_rng(0)
  folder.mkdir(parents=True)
  written, target, size = {}, {}, 0
  for name, shape in shapes(row).items():
    place = folder / ('target.' + name.replace('/', '.'))
    metadata = {
      'shape': list(shape),
      'chunks': chunk_shape(shape, 4),
      'dtype': '<f4',
      'compressor': {'id': 'gzip', 'level': 1},
    }
    if shape in written:
      place.mkdir()
      for file in written[shape].iterdir():
        os.link(file, place / file.name)
    else:
      written[shape] = place
      _write_array(place, metadata, rng)
    size += 4 * math.prod(shape)
    node = target
    *parents, last = name.split('/')
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = {
      'driver': 'zarr',
      'dtype': 'float32',
      'kvstore': {'driver': 'file', 'path': place.name},
      'metadata': metadata,
    }
  index = {
    'version': 3,
    'optimizer': {'target': target, 'state': {'step': np.int32(1)}},
  }
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  return size


def _write_array(place, metadata, rng):
  array = ts.open(
    {
      'driver': 'zarr',
      'kvstore': {'driver': 'file', 'path': f'{place}/'},
      'metadata': metadata,
    },
    create=True,
  ).result()
  shape, chunks = metadata['shape'], metadata['chunks']
  # The least of the usual initial scales: outputs stay finite in any depth.
  scale = 1.0 if len(shape) < 2 else max(shape) ** -0.5
  for corner in np.ndindex(*(s // c for s, c in zip(shape, chunks))):
    part = tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, chunks))
    draw = rng.standard_normal(chunks, np.float32) * np.float32(scale)
    array[part].write(draw).result()
