"""Stored arrays into sharded ones, reading each chunk once.

Storage reads a chunk whole, however little of it is wanted. The shards of a
host's devices often share chunks, and so do the layers of a stacked array;
hence the order here is that of the chunks: each that a host needs is read
once, and scattered into the buffers of all shards that have a part of it.

Host memory holds, beside the finished shards: the buffers of arrays that are
half read, the chunks in flight (`_IN_FLIGHT`), and for a moment an array both
as buffers and on the device. T5X's chunks are of at most 64 MiB.
"""

import collections
from collections.abc import Mapping
from concurrent import futures
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.text import stored as stored_lib

# Bytes of chunks that are read at the same time. A chunk costs about twice
# that while it is decompressed.
_IN_FLIGHT = 2**27
_THREADS = 32  # Most reads at a time; small chunks are bounded by latency.
# Chunks are read in boxes of at least so many bytes, where there are as many.
_BOX = 2**24


def load(
  stored: Mapping[str, stored_lib.Stored],
  wanted: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
  """Returns the arrays of `wanted`, cast to its dtypes, in its shardings.

  On several hosts each calls it, and reads what its own devices hold.

  Args:
    stored: has at least those names, of those shapes.
    wanted: a leaf without a sharding comes onto the default device.

  Raises:
    ValueError: where storage does not give a chunk.
  """
  sources = {}
  for name in wanted:
    whole, layer = stored[name].stack or (stored[name], None)
    shards = _Shards(name, wanted[name], layer)
    sources.setdefault(id(whole), (whole, []))[1].append(shards)

  arrays, running, in_flight = {}, collections.deque(), 0
  pool = futures.ThreadPoolExecutor(_THREADS)

  def finish_oldest():
    future, size, members, last = running.popleft()
    future.result()
    if last:
      while members:
        shards = members.pop()  # Its buffers go when it does.
        arrays[shards.name] = shards.finished()
    return size

  try:
    for whole, members in sources.values():
      boxes = [
        box for box in _boxes(whole) if any(each.wants(box) for each in members)
      ]
      size = math.prod(_unit(whole)) * whole.dtype.itemsize
      for number, box in enumerate(boxes):
        while running and in_flight + size > _IN_FLIGHT:
          in_flight -= finish_oldest()
        for each in members:
          each.allocate(box)
        future = pool.submit(_read, whole, box, tuple(members))
        last = number == len(boxes) - 1
        running.append((future, size, members if last else None, last))
        in_flight += size
    while running:
      finish_oldest()
  finally:
    pool.shutdown(cancel_futures=True)
  return arrays


class _Shards:
  """The parts of one array that this host's devices hold, being filled."""

  def __init__(self, name, leaf, layer):
    self.name = name
    self._leaf = leaf
    self._layer = layer
    sharding = getattr(leaf, 'sharding', None)
    if sharding is None:
      indices = [(slice(None),) * len(leaf.shape)]
    else:
      held = sharding.addressable_devices_indices_map(leaf.shape)
      indices = list(held.values())
    # By bounds: devices that hold copies share a buffer.
    self._buffers = dict.fromkeys(self._bounds(index) for index in indices)

  def _bounds(self, index):
    return tuple(
      part.indices(size)[:2] for part, size in zip(index, self._leaf.shape)
    )

  def _overlaps(self, box):
    """Returns [(bounds of a buffer, overlap with `box`)]; both as bounds."""
    if self._layer is not None:
      if not box[1][0] <= self._layer < box[1][1]:
        return []
      box = (box[0], *box[2:])
    found = []
    for bounds in self._buffers:
      overlap = tuple(
        (max(a, c), min(b, d)) for (a, b), (c, d) in zip(bounds, box)
      )
      if all(start < stop for start, stop in overlap):
        found.append((bounds, overlap))
    return found

  def wants(self, box) -> bool:
    return bool(self._overlaps(box))

  def hull(self, box):
    """Returns the bounds of all that is wanted of `box`, or None."""
    overlaps = [overlap for _, overlap in self._overlaps(box)]
    if not overlaps:
      return None
    hull = _hull(overlaps)
    if self._layer is not None:
      hull = (hull[0], (self._layer, self._layer + 1), *hull[1:])
    return hull

  def allocate(self, box):
    """Makes the buffers that `box` is a part of, and not all."""
    for bounds, overlap in self._overlaps(box):
      if self._buffers[bounds] is None and overlap != bounds:
        shape = [stop - start for start, stop in bounds]
        self._buffers[bounds] = np.empty(shape, self._leaf.dtype)

  def put(self, box, value):
    """Takes what is wanted of `value`, which was read at `box`."""
    if self._layer is not None and self._overlaps(box):
      value = value[:, self._layer - box[1][0]]
    inside = box if self._layer is None else (box[0], *box[2:])
    for bounds, overlap in self._overlaps(box):
      source = tuple(
        slice(a - c, b - c) for (a, b), (c, _) in zip(overlap, inside)
      )
      target = tuple(
        slice(a - c, b - c) for (a, b), (c, _) in zip(overlap, bounds)
      )
      part = value[source]
      if overlap == bounds:
        # A view of more than its part would keep all of it in memory.
        copy = part.size < value.size
        self._buffers[bounds] = part.astype(self._leaf.dtype, copy=copy)
      else:
        self._buffers[bounds][target] = part

  def finished(self) -> jax.Array:
    if getattr(self._leaf, 'sharding', None) is None:
      (buffer,) = self._buffers.values()
      return jnp.asarray(buffer)
    return jax.make_array_from_callback(
      self._leaf.shape,
      self._leaf.sharding,
      lambda index: self._buffers[self._bounds(index)],
    )


def _hull(boxes):
  """Returns the least box that holds all `boxes`, as bounds an axis."""
  return tuple(
    (min(start for start, _ in axis), max(stop for _, stop in axis))
    for axis in zip(*boxes)
  )


def _unit(stored):
  """Returns the shape of a read: a chunk, or several where they are small."""
  unit = list(stored.chunks)
  size = math.prod(unit) * stored.dtype.itemsize
  for axis in reversed(range(len(unit))):
    chunks = -(-stored.shape[axis] // unit[axis])
    times = max(1, min(chunks, _BOX // max(size, 1)))
    unit[axis] *= times
    size *= times
  return unit


def _boxes(stored):
  """Yields the boxes of a stored array in order, as bounds an axis."""
  axes = [
    [(start, min(start + step, size)) for start in range(0, size, step)]
    for size, step in zip(stored.shape, _unit(stored))
  ]
  return itertools.product(*axes)


def _read(stored, box, members):
  """Reads what is wanted of a box into the buffers of `members`."""
  hulls = [hull for each in members if (hull := each.hull(box))]
  hull = _hull(hulls)
  value = np.asarray(stored.read(tuple(slice(*bounds) for bounds in hull)))
  for each in members:
    each.put(hull, value)
