"""Digests of a state: whether what is read is, bit for bit, what was saved.

A checkpoint's files check their own tables, but not the numbers in them: a bit
that flips there is read back without a word. So the numbers are digested where
they lie, on the devices, before they are written and after they are read. A
digest is a sum without order, modulo 2**32, and so the same on every mesh.
"""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = np.uint32(0x9E3779B9)

# Sums that are under way at a time. JAX starts 32 programs on a CPU and then
# waits for one to end: four processes, each of which waited so for a sum that
# the others had yet to start, stood still for ever.
_AT_ONCE = 16


@jax.jit
def _sum_of_hashes(x):
  """A number in [0, 2**32) of an array's bits and where each of them stands."""
  if x.dtype.itemsize == 4:
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  elif x.dtype.itemsize == 2:
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32)
  else:
    bits = x.astype(jnp.uint32)  # Of one byte: whole numbers, booleans.
  place, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    steps = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place += steps * np.uint32(stride % 2**32)
    stride *= x.shape[axis]
  # The last step of MurmurHash3, which lets every bit count.
  bits = bits ^ (place * _GOLDEN)
  bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
  return jnp.sum(bits ^ (bits >> 16), dtype=jnp.uint32)


def of_arrays(tree) -> dict[str, int]:
  """Digests of a tree's arrays, of four bytes a number or fewer, by 'a/b' name.

  Arrays may be spread over several hosts, all of which must call this.
  """
  found = {}
  # Not one by one, as each is a round trip to the device; nor all at once.
  leaves = jax.tree.leaves_with_path(tree)
  for first in range(0, len(leaves), _AT_ONCE):
    sums = {
      jax.tree_util.keystr(path, simple=True, separator='/'): _sum_of_hashes(x)
      for path, x in leaves[first : first + _AT_ONCE]
    }
    found |= {name: int(value) for name, value in jax.device_get(sums).items()}
  return found


def joined(digests: dict[str, int]) -> str:
  """One digest of several, in whatever order they come; 32 hex digits."""
  return of_json(sorted(digests.items()))


def of_json(value) -> str:
  """The digest of what JSON holds, as it is when read back; 32 hex digits."""
  value = json.loads(json.dumps(value))
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:32]
