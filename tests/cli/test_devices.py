"""How JAX is started; several processes are in tests/train/test_hosts.py."""

import subprocess
import sys

import jax
import pytest

from imagen_jax.cli import devices


@pytest.fixture
def started(monkeypatch):
  """What `start` did to JAX, none of which happens."""
  done = {}
  monkeypatch.setattr(jax.config, 'update', done.__setitem__)
  monkeypatch.setattr(
    jax.distributed,
    'initialize',
    lambda *args: done.update(initialize=args),
  )
  return done


def test_one_process_starts_nothing(started, monkeypatch):
  monkeypatch.setattr(devices, '_is_tpu_host', lambda: False)
  devices.start()
  assert 'initialize' not in started
  assert 'jax_platforms' not in started


def test_hosts_of_a_pod_find_each_other(started, monkeypatch):
  monkeypatch.setattr(devices, '_is_tpu_host', lambda: True)
  devices.start()
  assert started['initialize'] == ()
  started.clear()
  for given in ({'simulated_devices': 2}, {'alone': True}):
    devices.start(**given)
    assert 'initialize' not in started


def test_hosts_elsewhere_are_told(started):
  devices.start(4, coordinator='host:1', num_processes=2, process_id=0)
  assert started['initialize'] == ('host:1', 2, 0)
  assert started['jax_num_cpu_devices'] == 4
  assert started['jax_platforms'] == 'cpu'
  # Which serves process 0 alone.
  assert started['jax_enable_compilation_cache'] is False


@pytest.mark.parametrize(
  'given',
  [
    {'coordinator': 'host:1'},
    {'num_processes': 2, 'process_id': 0},
    {'coordinator': 'host:1', 'process_id': 0},
  ],
)
def test_half_a_coordinator_is_refused(given, started):
  with pytest.raises(ValueError, match='--process-id go together; got'):
    devices.start(**given)
  assert not started


def test_programs_are_kept_where_the_environment_says(started, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'here')
  devices.start()
  assert 'jax_compilation_cache_dir' not in started
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  monkeypatch.setenv('HOME', '/home/me')
  devices.start()
  cache = '/home/me/.cache/imagen_jax/xla'
  assert started['jax_compilation_cache_dir'] == cache


def test_devices_are_simulated():
  code = """
from imagen_jax.cli import devices
devices.start(3)
import jax
assert (jax.device_count(), jax.default_backend()) == (3, 'cpu')
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
