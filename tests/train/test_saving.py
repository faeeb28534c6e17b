"""Saves that fail: told, tried again, and bounded."""

import dataclasses
import sys

import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import damage
from imagen_jax.train import saving

CONFIG = config_lib.Config(
  train=config_lib.TrainConfig(num_steps=100, checkpoint_every=10)
)
FULL = OSError(28, 'No space left on device')


class Storage:
  """In the place of a `Checkpointer`: what becomes of each save in turn.

  A fate is None, an error that its end meets, or ('start', error).
  """

  def __init__(self, *fates):
    self.fates = list(fates)
    self.saved, self.asked, self.discarded = [], [], []
    self.saving = False

  def save(self, state, data, config, identity):
    assert (config, identity) == (CONFIG, {'encoder': 'x'})
    self.asked.append(data['step'])
    fate = self.fates.pop(0) if self.fates else None
    if isinstance(fate, tuple):
      raise fate[1]
    self.fate, self.saving = fate, True

  def is_saving(self):
    return self.saving

  def end(self):
    self.saving = False

  def wait(self):
    self.saving = False
    if self.fate:
      raise self.fate
    self.saved.append(self.asked[-1])

  def discard(self, step):
    self.discarded.append(step)

  def steps(self):
    return self.saved


@pytest.fixture
def said():
  return []


@pytest.fixture
def waits(monkeypatch):
  """Seconds that were slept, without sleeping."""
  found = []
  monkeypatch.setattr(saving.time, 'sleep', found.append)
  return found


def saver_of(storage, said, start=0):
  return saving.Saver(storage, CONFIG, {'encoder': 'x'}, start, said.append)


def run(saver, storage, steps, log_every=5):
  """Takes steps as the loop does, each save long done at the next line."""
  for step in steps:
    storage.end()
    if step % log_every == 0:
      saver.look()
    if saver.due(step):
      saver.save(step, None, {'step': step})


def test_saves_are_at_their_steps_and_at_the_end(said):
  storage = Storage()
  saver = saver_of(storage, said)
  assert [n for n in range(1, 101) if saver.due(n)] == list(range(10, 101, 10))
  run(saver, storage, range(1, 101))
  saver.finish(100, None, {'step': 100})
  assert storage.asked == list(range(10, 101, 10))
  assert (saver.sound, said) == (100, [])


@pytest.mark.parametrize('fate', [FULL, ('start', FULL)])
def test_what_failed_is_told_and_tried_again(fate, said, waits):
  storage = Storage(None, fate, fate)
  saver = saver_of(storage, said)
  run(saver, storage, range(1, 41))
  # The line of metrics after it has it tried again, and the one after that.
  assert storage.asked == [10, 20, 25, 30, 40]
  assert storage.discarded == [20, 25]
  assert said == [
    f'the checkpoint of step {step} was not written ([Errno 28] No space left '
    'on device); the newest is of step 10; it will be tried again'
    for step in (20, 25)
  ]
  assert not waits


def test_training_waits_where_too_much_is_unsaved(said, waits):
  storage = Storage(None, *[FULL] * 6)
  saver = saver_of(storage, said)
  run(saver, storage, range(1, 51))
  # Twenty steps after the newest it tries until it succeeds.
  assert storage.asked == [10, 20, 25, 30, 35, 35, 35, 35, 40, 50]
  assert waits == [1, 2, 4]
  assert storage.saved[:2] == [10, 35]
  storage.end()
  saver.look()
  assert saver.sound == 50


def test_a_run_that_cannot_save_stops(said, waits):
  storage = Storage(None, *[FULL] * 100)
  saver = saver_of(storage, said)
  words = (
    r'since step 10: \[Errno 28\] No space .*; accepted: a --workdir that can'
  )
  with pytest.raises(ValueError, match=words):
    run(saver, storage, range(1, 101))
  assert storage.asked[-1] == 35
  assert sum(waits) == 120


def test_the_last_save_is_waited_for(said, waits):
  storage = Storage(FULL, FULL)
  saver = saver_of(storage, said, start=4)
  saver.save(7, None, {'step': 7})
  saver.finish(7, None, {'step': 7})
  assert storage.asked == [7, 7, 7]
  assert saver.sound == 7
  assert len(said) == 2 and 'the newest is of step 4' in said[0]
  saver.finish(7, None, {'step': 7})
  assert storage.asked == [7, 7, 7]


def test_one_that_is_complete_in_spite_of_an_error_is_sound(said):
  storage = Storage(FULL)
  saver = saver_of(storage, said)
  saver.save(10, None, {'step': 10})
  storage.saved.append(10)
  storage.end()
  saver.look()
  assert saver.sound == 10
  assert not saver.due(11)


def test_a_save_that_takes_long_is_no_failure(said):
  storage = Storage()
  saver = saver_of(storage, said)
  saver.save(10, None, {'step': 10})
  saver.look()
  assert (saver.sound, saver.due(11)) == (0, False)
  storage.end()
  saver.look()
  assert saver.sound == 10


@pytest.mark.parametrize('here', [None, FULL])
def test_all_hosts_try_again_where_one_fails(here, said, monkeypatch):
  """Of two, the other has failed; this one has not, or is not done yet."""
  largest = lambda own: [max(*own, saving._FAILED)]
  monkeypatch.setattr(saving.hosts, 'largest', largest)
  storage = Storage(here)
  saver = saver_of(storage, said)
  saver.save(10, None, {'step': 10})
  storage.steps = list
  saver.look()
  assert storage.discarded == [10]
  assert saver.due(11)
  reason = '[Errno 28] No space left' if here else 'another host says why'
  assert reason in said[0]


def test_a_metric_that_no_line_has_is_told_once(said, monkeypatch):
  best = config_lib.KeepConfig(best=1, metric='valid')
  judging = dataclasses.replace(CONFIG, keep=best)
  monkeypatch.setattr(sys.modules[__name__], 'CONFIG', judging)
  storage = Storage()
  saver = saver_of(storage, said)
  for step in (10, 20):
    saver.save(step, None, {'step': step, 'judged': None})
  (line,) = said
  assert line == (
    'the checkpoint of step 10 is not judged by keep.metric, as no line of '
    "metrics has had 'valid' so far"
  )
  saver = saver_of(storage, said)
  saver.save(30, None, {'step': 30, 'judged': {'valid': 1.0}})
  assert len(said) == 1


def test_the_time_it_takes_is_counted(said, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(saving.time, 'perf_counter', lambda: now[0])
  storage = Storage()
  saver = saver_of(storage, said)
  real = storage.save

  def save(*args):
    now[0] += 3.0
    real(*args)

  storage.save = save
  saver.save(10, None, {'step': 10})
  assert saver.seconds == 3


def test_a_reason_is_what_was_met_first():
  error = RuntimeError('outer')
  error.__cause__ = ValueError('NOT_FOUND: inner\nmuch more')
  assert damage.reason(error) == 'NOT_FOUND: inner'
  assert damage.reason(KeyError()) == 'KeyError'


@pytest.mark.parametrize('other', [True, False])
def test_one_that_is_complete_is_so_on_all_hosts_or_on_none(
  other, said, monkeypatch
):
  """Of two, which look one after the other; else one would save alone."""
  found = saving._SAVED if other else saving._FAILED
  answers = [saving._FAILED, found]
  monkeypatch.setattr(
    saving.hosts, 'largest', lambda own: [max(*own, answers.pop(0))]
  )
  storage = Storage()
  saver = saver_of(storage, said)
  saver.save(10, None, {'step': 10})
  storage.end()
  saver.look()  # Which finds it here.
  assert not answers
  assert (saver.sound, saver.due(11)) == ((10, False) if other else (0, True))
