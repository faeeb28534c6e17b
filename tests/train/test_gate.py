"""Hosts that save together, one of which cannot."""

import collections
import threading
import time

import host_runs
import jax
import pytest

from imagen_jax.train import gate

SOON = 30_000
# As Orbax calls them.
WRITTEN, COMPLETE = '_async_write_complete.4', '_async_commit_complete.4'


class Service:
  """What JAX's service keeps for hosts, which are threads here."""

  def __init__(self):
    self.found = {}

  def key_value_set(self, key, value, allow_overwrite):
    self.found[key] = value

  def key_value_increment(self, key, by):
    self.found[key] = self.found.get(key, 0) + by
    return self.found[key]

  def key_value_delete(self, prefix):
    for key in [key for key in self.found if key.startswith(prefix)]:
      del self.found[key]

  def key_value_try_get(self, key):
    if key not in self.found:
      raise jax.errors.JaxRuntimeError(f'NOT_FOUND: {key}')
    return self.found[key]

  def blocking_key_value_get(self, key, milliseconds):
    deadline = time.monotonic() + milliseconds / 1000
    while key not in self.found:
      if time.monotonic() > deadline:
        raise jax.errors.JaxRuntimeError(f'DEADLINE_EXCEEDED: {key}')
      time.sleep(0.005)
    return self.found[key]


@pytest.fixture
def service(monkeypatch):
  """A service of two hosts."""
  jax.devices()  # Which JAX would ask its own service for.
  found = Service()
  monkeypatch.setattr(gate, '_LOOK', 0.05)
  monkeypatch.setattr(gate, '_saves', collections.Counter())
  monkeypatch.setattr(gate.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax._src.distributed.global_state, 'client', found)
  return found


@pytest.fixture
def here(service):
  return gate.Gate('checkpoints')


@pytest.fixture
def there(service):
  return gate.Gate('checkpoints')


def meeting(host, key, met, milliseconds=SOON):
  """A thread of a host that comes to a meeting; notes how it ends."""

  def come():
    try:
      host.meet(key=key, timeout_ms=milliseconds)
    except Exception as error:
      met.append(error)
    else:
      met.append(None)

  found = threading.Thread(target=come)
  found.start()
  return found


def test_all_wait_for_the_last(here, there):
  here.begin()
  met = []
  first = meeting(here, WRITTEN, met)
  first.join(0.3)
  assert not met
  meeting(there, WRITTEN, met).join()
  first.join()
  assert met == [None, None]


def test_where_one_fails_the_others_learn_of_it(here, there):
  here.begin()
  met = []
  first = meeting(here, WRITTEN, met)
  there.fail()
  first.join(10)
  assert isinstance(met[0], gate.FailedElsewhere)


def test_one_that_fails_after_all_have_written_tells_so(here, there):
  """As host 0, which alone makes a checkpoint complete."""
  here.begin()
  met, ends = [], threading.Event()

  def writes():
    here.meet(key=WRITTEN, timeout_ms=SOON)
    ends.wait()

  def saves():
    there.meet(key=WRITTEN, timeout_ms=SOON)
    met.append('written')
    with pytest.raises(gate.FailedElsewhere):
      there.meet(key=COMPLETE, timeout_ms=SOON)
    met.append('failed')

  first, second = (
    threading.Thread(target=writes),
    threading.Thread(target=saves),
  )
  first.start()
  second.start()
  second.join(0.5)
  assert met == ['written']
  ends.set()
  second.join(10)
  assert met == ['written', 'failed']


def test_one_that_has_come_to_all_tells_nothing(here, there, service):
  here.begin()
  met = []

  def saves(host):
    host.meet(key=WRITTEN, timeout_ms=SOON)
    host.meet(key=COMPLETE, timeout_ms=SOON)
    met.append(host)

  # Each has a state of its own, as a host has.
  both = [threading.Thread(target=saves, args=(x,)) for x in (here, there)]
  for each in both:
    each.start()
  for each in both:
    each.join()
  time.sleep(0.1)
  assert len(met) == 2
  assert not any(key.endswith('failed') for key in service.found)


def test_a_save_knows_nothing_of_the_one_before(here, there, service):
  here.begin()
  there.fail()
  here.begin()
  assert not service.found
  met = []
  first = meeting(here, WRITTEN, met)
  meeting(there, WRITTEN, met).join()
  first.join()
  assert met == [None, None]


def test_who_does_not_come_is_not_waited_for_longer(here):
  here.begin()
  met = []
  meeting(here, WRITTEN, met, milliseconds=100).join(10)
  assert isinstance(met[0], TimeoutError)


# What fails once, at the step that is saved second, of one of two hosts.
WRITES = """
import sys
from imagen_jax.train import parts
make, saves = parts.handler, []
def handler():
  found = make()
  save = found.async_save
  class Failing:
    def result(self, timeout=None):
      raise OSError(28, 'no space left')
    def cancel(self):
      pass
  async def async_save(*args, **kwargs):
    futures = await save(*args, **kwargs)
    saves.append(0)
    if len(saves) == 2 and sys.argv[-1] == '{host}':
      return [*futures, Failing()]
    return futures
  found.async_save = async_save
  return found
parts.handler = handler
"""
COMPLETES = """
import sys
import orbax.checkpoint as ocp
finalize, saves = ocp.PyTreeCheckpointHandler.finalize, []
def failing(self, directory):
  saves.append(0)
  if len(saves) == 2 and sys.argv[-1] == '{host}':
    raise OSError(28, 'no space left')
  return finalize(self, directory)
ocp.PyTreeCheckpointHandler.finalize = failing
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  'what, host', [(WRITES, 0), (WRITES, 1), (COMPLETES, 0)]
)
def test_a_run_goes_on_where_one_host_could_not_save(
  what, host, tiny, tmp_path
):
  """Long before Orbax's limit, and ends with all its checkpoints but one."""
  workdir = tmp_path / 'run'
  begun = time.monotonic()
  with host_runs.started(
    tiny,
    workdir,
    'train.checkpoint_every=2',
    'train.keep_checkpoints=9',
    each=1,
    before=what.format(host=host),
  ) as hosts:
    status = hosts.finish(300)
  assert status == [0, 0], hosts.said()
  assert time.monotonic() - begun < 300
  found = {int(path.name) for path in (workdir / 'checkpoints').iterdir()}
  assert found == {2, 6, 8}
  assert 'the checkpoint of step 4 was not written' in hosts.said()[0]
