"""How JAX is started; several processes are in tests/train/test_hosts.py."""

import re
import subprocess
import sys

import jax
import pytest

from imagen_jax import config
from imagen_jax.cli import devices


@pytest.fixture
def started(monkeypatch):
  """What `start` did to JAX, none of which happens."""
  done = {}
  monkeypatch.setattr(jax.config, 'update', done.__setitem__)
  monkeypatch.setattr(
    jax.distributed,
    'initialize',
    lambda *args, **more: done.update(initialize=args, more=more),
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
  assert started['more'] == {'heartbeat_timeout_seconds': devices.DEAD_AFTER}
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
  assert started['more'] == {'heartbeat_timeout_seconds': devices.DEAD_AFTER}
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


def test_how_long_a_host_may_be_silent(started):
  devices.start(
    coordinator='host:1', num_processes=2, process_id=0, dead_after=7
  )
  assert started['more'] == {'heartbeat_timeout_seconds': 7}
  with pytest.raises(ValueError, match='--dead-after is 0; accepted: 1 or mo'):
    devices.start(dead_after=0)


class Service:
  """Of four hosts, of which this is number 1: who does not come to leave."""

  process_id, num_processes = 1, 4

  def __init__(self, error):
    self.client, self.error = self, error

  def wait_at_barrier(self, name, milliseconds):
    assert milliseconds == 10_000
    if self.error:
      raise RuntimeError(self.error)


def refuse():
  config.GuardConfig(policy='go')


def fail():
  raise RuntimeError('odd')


TIMED_OUT = (
  'DEADLINE_EXCEEDED: Barrier timed out. The first task at the barrier: '
  '/job:jax_worker/replica:0/task:0. Some timed out task names:\n'
  '/job:jax_worker/replica:0/task:3\n/job:jax_worker/replica:0/task:2'
)


@pytest.mark.parametrize(
  'meet, gone, status, words',
  [
    (refuse, '', 2, "^imagen-jax: guard.policy is 'go'; accepted: 'stop', .*$"),
    (fail, '', 75, 'RuntimeError: odd$'),
    (fail, TIMED_OUT, 75, 'host 1 ends, as there is no word of host 2, 3, wh'),
    (fail, 'UNAVAILABLE: closed', 75, 'there is no word of host 0, which has'),
  ],
)
def test_a_host_that_fails_ends_at_once(
  meet, gone, status, words, monkeypatch, capfd
):
  monkeypatch.delenv('IMAGEN_JAX_TRACEBACK', raising=False)
  monkeypatch.setattr(devices, '_state', lambda: Service(gone))
  monkeypatch.setattr(devices.os, '_exit', sys.exit)
  with pytest.raises(SystemExit) as ended, devices.together():
    meet()
  assert ended.value.code == status
  said = capfd.readouterr().err
  assert re.search(words, said.strip(), re.DOTALL), said
  assert ('Traceback' in said) == (status == 75)


def test_what_all_hosts_meet_alike_ends_them_as_one_is_ended(monkeypatch):
  monkeypatch.setattr(devices, '_state', lambda: Service(''))
  with pytest.raises(FloatingPointError), devices.together():
    raise FloatingPointError
  monkeypatch.setattr(devices, '_state', lambda: None)
  with pytest.raises(RuntimeError, match='odd'), devices.together():
    fail()


def test_one_process_has_no_others():
  assert devices._state() is None


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
from imagen_jax import config
from imagen_jax.cli import devices
devices.start(3)
import jax
assert (jax.device_count(), jax.default_backend()) == (3, 'cpu')
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  'told, numbers',
  [
    (
      'The first task: 0. Some timed out task names:\n1\n12\n\n\nRPC: /xla 7',
      {1, 12},
    ),
    (
      'The first: /job:a/task:0. Some timed out task names:\n/job:a/task:3\n',
      {3},
    ),
    ('Barrier failed: UNAVAILABLE: Task 1 heartbeat timeout. This', {1}),
    ('unhealthy (stopped sending heartbeats):\n2\nThe tasks have', {2}),
    ('UNAVAILABLE: failed to connect to 127.0.0.1:8476', set()),
  ],
)
def test_the_hosts_that_are_missed_are_named(told, numbers):
  """As JAX 0.10 and 0.12 put it, and those before."""
  assert devices._named(told) == numbers
