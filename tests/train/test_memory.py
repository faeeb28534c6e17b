"""The memory that devices tell of."""

import types

import jax

from imagen_jax.train import hosts
from imagen_jax.train import memory

GIB = 2**30


def device(used, peak):
  stats = {
    'bytes_in_use': used * GIB,
    'peak_bytes_in_use': peak * GIB,
    'bytes_limit': 16 * GIB,
  }
  return types.SimpleNamespace(memory_stats=lambda: stats)


def test_the_fullest_device_is_told():
  assert memory.metrics([device(3, 9), device(5, 7)]) == {
    'hbm_gib': 5,
    'hbm_peak_gib': 9,
    'hbm_limit_gib': 16,
  }


def test_cpus_do_not_tell():
  assert jax.local_devices()[0].memory_stats() is None
  assert memory.metrics() == {}


def test_the_largest_is_over_all_hosts(monkeypatch):
  monkeypatch.setattr(hosts.jax, 'process_count', lambda: 2)
  gather = lambda here: [here, here * [[2, 0.5, 1]]]
  monkeypatch.setattr(hosts.multihost_utils, 'process_allgather', gather)
  assert memory.metrics([device(3, 8)]) == {
    'hbm_gib': 6,
    'hbm_peak_gib': 8,
    'hbm_limit_gib': 16,
  }
