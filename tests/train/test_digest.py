"""Digests of arrays: what changes them and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import digest

TREE = {
  'a': {'kernel': np.random.default_rng(0).normal(size=(8, 4, 2))},
  'b': np.arange(16, dtype=np.int32),
  'step': np.int32(7),
}
TREE['a']['kernel'] = TREE['a']['kernel'].astype(np.float32)


def by_hand(x):
  """The digest as its text has it, a number at a time."""
  total = 0
  for place, bits in enumerate(x.ravel().view(np.uint32).tolist()):
    bits ^= place * 0x9E3779B9 % 2**32
    bits = (bits ^ bits >> 16) * 0x85EBCA6B % 2**32
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 % 2**32
    total += bits ^ bits >> 16
  return total % 2**32


def test_is_what_is_written_of_it():
  found = digest.of_arrays(TREE)
  assert found == {
    'a/kernel': by_hand(TREE['a']['kernel']),
    'b': by_hand(TREE['b']),
    'step': by_hand(TREE['step']),
  }


def test_is_the_same_on_every_mesh():
  kernel = TREE['a']['kernel']
  for sizes, axes in (
    ({'data': 2, 'fsdp': 4}, jax.P('fsdp')),
    ({'fsdp': 2, 'model': 4}, jax.P(None, 'model', 'fsdp')),
    ({'data': 8}, jax.P()),
  ):
    mesh = sharding.make_mesh(config_lib.MeshConfig(**sizes))
    place = jax.sharding.NamedSharding(mesh, axes)
    found = digest.of_arrays({'a': jax.device_put(kernel, place)})
    assert found == {'a': by_hand(kernel)}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32', 'bool'])
def test_every_bit_counts(dtype):
  array = jnp.asarray(np.arange(12).reshape(3, 4) % 5, dtype)
  seen = {digest.of_arrays([array])['0']}
  raw = np.asarray(array).view(np.uint8)
  bits = [0] if dtype == 'bool' else range(8)
  for byte in range(raw.size):
    for bit in bits:
      other = raw.copy()
      other.flat[byte] ^= 1 << bit
      changed = other.view(np.asarray(array).dtype)
      seen.add(digest.of_arrays([changed])['0'])
  assert len(seen) == 1 + raw.size * len(bits)


def test_places_count():
  array = np.arange(6, dtype=np.float32)
  seen = {digest.of_arrays([np.roll(array, n)])['0'] for n in range(6)}
  assert len(seen) == 6
  swapped = array.copy()
  swapped[[1, 4]] = swapped[[4, 1]]
  assert digest.of_arrays([swapped]) != digest.of_arrays([array])
  # Minus zero is zero, but is not what was saved.
  zero = np.zeros(2, np.float32)
  assert digest.of_arrays([zero]) != digest.of_arrays([-zero])


def test_joined_goes_by_names():
  assert digest.joined({'a': 1, 'b': 2}) == digest.joined({'b': 2, 'a': 1})
  assert digest.joined({'a': 1, 'b': 2}) != digest.joined({'a': 2, 'b': 1})


def test_json_is_taken_as_it_comes_back():
  assert digest.of_json({'a': (1, 2.5)}) == digest.of_json({'a': [1, 2.5]})
  assert digest.of_json({'a': 0.1}) != digest.of_json({'a': 0.1 + 1e-16 * 2})
