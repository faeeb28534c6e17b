"""Where a run's time goes, by clocks that the tests turn."""

import json
import threading

import pytest

from imagen_jax.train import goodput as goodput_lib


class Time:
  """Both clocks; the wall's is ahead."""

  def __init__(self):
    self.now = 0.0

  def clock(self):
    return self.now

  def wall(self):
    return 1000.0 + self.now


class Writer:
  """Keeps lines in memory, as a workdir does over lives."""

  def __init__(self):
    self.lines = []

  def open(self, name):
    assert name == 'goodput.jsonl'
    return list(self.lines)

  def add(self, name, line):
    self.lines.append(line)


class Step:
  """A step's result: it is done when the test says so."""

  def __init__(self):
    self.done = threading.Event()


@pytest.fixture
def time():
  return Time()


@pytest.fixture
def devices(monkeypatch):
  """Has the account wait for a `Step` as for a device."""
  monkeypatch.setattr(
    goodput_lib.jax, 'block_until_ready', lambda step: step.done.wait(60)
  )


class Life:
  """One process of a run, whose steps take what it says."""

  def __init__(self, time, writer, start_step, restore=2.0):
    self.time, self.step = time, start_step
    self.account = goodput_lib.Goodput(
      time.wall(), clock=time.clock, wall=time.wall
    )
    time.now += 3.0
    self.account.spent('start')
    time.now += restore
    self.account.spent('restore')
    self.account.open(writer, start_step)
    self.last = None

  def dispatch(self, compile_seconds=0.0):
    self.account.before_step()
    self.time.now += compile_seconds
    self.last = Step()
    self.step += 1
    self.account.after_step(self.step, self.last)

  def finish(self):
    """The step under way is done now."""
    done = self.account._done
    self.last.done.set()
    with self.account._news:
      assert self.account._news.wait_for(lambda: self.account._done > done, 60)

  def make(self, steps, seconds, compile_seconds=0.0):
    for _ in range(steps):
      self.dispatch(compile_seconds)
      compile_seconds = 0.0
      self.time.now += seconds
      self.finish()

  def line(self):
    return self.account.line()


def lost(found):
  return {
    name.partition('/')[2]: value
    for name, value in found.items()
    if name.startswith('lost_seconds/') and value
  }


def test_every_second_of_a_life_has_a_name(time, devices):
  life = Life(time, Writer(), 0)
  life.make(4, 5.0, compile_seconds=10.0)
  for name, seconds in (('data', 1.0), ('save', 4.0), ('sample', 6.0)):
    with life.account.waiting(name):
      time.now += seconds
  time.now += 0.5
  found = life.line()
  assert found['productive_seconds'] == 20
  assert lost(found) == {
    'start': 3,
    'restore': 2,
    'compile': 10,
    'data': 1,
    'save': 4,
    'sample': 6,
    'other': 0.5,
  }
  assert found['goodput'] == pytest.approx(20 / time.now)
  assert found['resumes'] == 0


def test_a_wait_while_devices_are_busy_loses_nothing(time, devices):
  life = Life(time, Writer(), 0)
  life.dispatch()
  with life.account.waiting('data'):
    time.now += 3.0
  life.dispatch = None
  # Of a wait that outlasts the step, the rest is lost.
  with life.account.waiting('data'):
    time.now += 1.0
    life.finish()
    time.now += 0.25
  found = life.line()
  assert found['productive_seconds'] == 4
  assert lost(found) == {'start': 3, 'restore': 2, 'data': 0.25}


def test_steps_that_are_made_again_are_told_exactly(time, devices):
  """From checkpoints of 4 and 8, with lines in between, of several lives."""
  writer = Writer()
  life = Life(time, writer, 0)
  for seconds in (1.0, 2.0, 4.0, 8.0, 16.0):  # Steps 2, 4, 6, 8, 10.
    life.make(2, seconds / 2)
    life.line()
  assert life.line()['productive_seconds'] == 31
  # Killed; the checkpoint of 8 is there.
  time.now += 100.0
  life = Life(time, writer, 8)
  life.make(4, 1.0)
  found = life.line()
  assert (found['productive_seconds'], found['resumes']) == (15 + 4, 1)
  assert lost(found)['repeated'] == 16
  assert lost(found)['between'] == pytest.approx(100)
  # That of 12 and that of 8 are damaged: both lives made steps for nothing.
  time.now += 50.0
  life = Life(time, writer, 4)
  life.make(1, 0.5)
  found = life.line()
  assert (found['productive_seconds'], found['resumes']) == (3 + 0.5, 2)
  assert lost(found)['repeated'] == 16 + 4 + 8 + 4
  assert lost(found)['between'] == pytest.approx(150)
  seconds = found['productive_seconds'] + sum(lost(found).values())
  assert seconds == pytest.approx(time.now)


def test_what_a_kill_takes_is_between(time, devices):
  writer = Writer()
  life = Life(time, writer, 0)
  life.make(2, 1.0)
  life.line()
  life.make(3, 1.0)  # No line tells of them.
  writer.lines.append('{"step": 5, "bu')
  writer.lines.append('[]')
  time.now += 10.0
  life = Life(time, writer, 0)
  life.make(1, 1.0)
  found = life.line()
  assert found['productive_seconds'] == 1
  assert lost(found)['repeated'] == 2
  assert lost(found)['between'] == pytest.approx(13)


def test_the_end_of_a_life_is_written(time, devices):
  writer = Writer()
  life = Life(time, writer, 0)
  life.make(3, 1.0)
  life.account.close()
  life.account.close()
  assert [json.loads(line).get('step') for line in writer.lines] == [None, 3]
  assert goodput_lib.read(writer.lines).productive == 3


def test_a_step_that_does_not_end_does_not_hold_up_the_end(
  time, devices, monkeypatch
):
  monkeypatch.setattr(goodput_lib, '_PATIENCE', 0.05)
  writer = Writer()
  life = Life(time, writer, 0)
  life.dispatch()
  life.account.close()
  assert len(writer.lines) == 1
  life.finish()


def test_a_life_that_makes_no_step_counts_nothing(time):
  writer = Writer()
  account = goodput_lib.Goodput(None, clock=time.clock, wall=time.wall)
  account.close()
  assert not writer.lines


def test_what_another_host_waits_for_is_lost_here(time, devices, monkeypatch):
  """Its devices keep those of this one in the step."""
  life = Life(time, Writer(), 0)
  life.make(2, 5.0)
  given = []

  def largest(values):
    given.append(values)
    return [7.0, *values[1:]]

  monkeypatch.setattr(goodput_lib.hosts, 'largest', largest)
  with life.account.waiting('data'):
    time.now += 1.0
  found = life.line()
  assert given == [[1.0, 0, 0]]
  assert lost(found)['data'] == 7
  assert found['productive_seconds'] == 10 - 6


def test_a_device_that_fails_is_told_elsewhere(time, monkeypatch):
  def broken(result):
    raise RuntimeError('of a device')

  monkeypatch.setattr(goodput_lib.jax, 'block_until_ready', broken)
  life = Life(time, Writer(), 0)
  life.dispatch()
  life.line()
