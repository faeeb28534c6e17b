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
  monkeypatch.setattr(devices, '_num_tpu_chips', lambda: 0)
  devices.start()
  assert 'initialize' not in started
  assert 'jax_platforms' not in started


def test_hosts_of_a_pod_find_each_other(started, monkeypatch):
  monkeypatch.setattr(devices, '_num_tpu_chips', lambda: 4)
  devices.start()
  assert started['initialize'] == ()
  started.clear()
  devices.start(simulated_devices=2)
  assert 'initialize' not in started


@pytest.mark.parametrize('chips, bounds', [(1, '1,1,1'), (4, '2,2,1')])
def test_one_host_of_a_pod_can_work_alone(started, monkeypatch, chips, bounds):
  monkeypatch.setattr(devices, '_num_tpu_chips', lambda: chips)
  environment = {}
  monkeypatch.setattr(devices.os, 'environ', environment)
  environment['HOME'] = '/home/me'
  devices.start(alone=True)
  assert 'initialize' not in started
  assert environment['TPU_PROCESS_BOUNDS'] == '1,1,1'
  assert environment['TPU_CHIPS_PER_PROCESS_BOUNDS'] == bounds
  # Who sets them knows better.
  environment['TPU_CHIPS_PER_PROCESS_BOUNDS'] = '4,1,1'
  devices.start(alone=True)
  assert environment['TPU_CHIPS_PER_PROCESS_BOUNDS'] == '4,1,1'


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
