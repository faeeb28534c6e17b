"""Where a run is in its data: saved, restored, and what may change then."""

import json

from batches import FakeStore
from batches import assert_same
from batches import join
from batches import take
import numpy as np
import pytest

from imagen_jax.data import loader as loader_lib


def test_any_step_can_be_started_at(mixed, whole):
  (fifth,) = take(mixed, 1, start_step=4, store=FakeStore())
  assert_same(fifth, whole[4])
  (far,) = take(mixed, 1, start_step=10**9)
  assert far['slot'][0] == 8 * 10**9


def test_a_position_is_saved_and_restored(mixed, whole):
  options = {'rows': range(8), 'store': FakeStore()}
  with loader_lib.training_batches(mixed, **options) as batches:
    assert batches.state()['step'] == 0
    next(batches)
    next(batches)
    state = json.loads(json.dumps(batches.state()))
    assert state['step'] == 2
    next(batches)
    # In a loader that runs, and in a new one.
    batches.restore(state)
    assert_same(next(batches), whole[2])
  with loader_lib.training_batches(mixed, **options) as batches:
    batches.restore(state)
    assert_same(next(batches), whole[2])
    assert_same(next(batches), whole[3])
    assert batches.state()['step'] == 4


def test_a_position_in_other_data_is_refused(mixed):
  rows = range(8)
  with loader_lib.training_batches(mixed, rows=rows, store=None) as batches:
    state = batches.state()
    state['examples'] = {'a': 21, 'b': 11}
    with pytest.raises(ValueError, match="examples was {'a': 21, 'b': 11}, is"):
      batches.restore(state)


def test_a_position_in_another_order_is_refused(mixed):
  """Such as one of a version that shuffles otherwise."""
  rows = range(8)
  with loader_lib.training_batches(mixed, rows=rows, store=None) as batches:
    state = batches.state()
    state['order_version'] += 1
    with pytest.raises(ValueError, match='order_version was 2, is 1; accepted'):
      batches.restore(state, allow_other_data=True)


@pytest.mark.parametrize('before, after', [(1, 4), (4, 2)])
def test_a_position_is_gone_on_from_by_other_hosts(mixed, whole, before, after):
  def parts(hosts):
    each = mixed.train.batch_size // hosts
    for host in range(hosts):
      rows = range(host * each, (host + 1) * each)
      yield loader_lib.training_batches(mixed, rows=rows, store=FakeStore())

  states = []
  for batches in parts(before):
    with batches:
      next(batches), next(batches)
      states.append(json.dumps(batches.state()))
  assert len(set(states)) == 1
  found = []
  for batches in parts(after):
    with batches:
      batches.restore(json.loads(states[0]))
      found.append(next(batches))
  assert_same(whole[2], join(found))


def test_a_position_in_as_much_of_other_data_is_refused(toy, twenty, tmp_path):
  def state_of(path):
    config = toy.config(('a', path), batch_size=4)
    return loader_lib.training_batches(config, rows=range(4), store=None)

  moved = tmp_path / 'moved'
  moved.symlink_to(twenty)
  other = toy.write(
    tmp_path / 'other', {'train': [toy.example(n + 1) for n in range(20)]}
  )
  with state_of(twenty) as batches:
    state = json.loads(json.dumps(batches.state()))
  with state_of(str(moved)) as batches:
    batches.restore(state)
  with state_of(other) as batches:
    with pytest.raises(ValueError, match='fingerprints was .* accepted: the s'):
      batches.restore(state)
    batches.restore(state, allow_other_data=True)
    del state['fingerprints']  # As before 0.1.0.
    batches.restore(state)


def test_rates_change_at_a_resume_from_that_step_on(toy, twenty, eleven):
  def of(a, b):
    return toy.config(('a', twenty, a), ('b', eleven, b), crop='random')

  def resumed(config, state, count, rows=range(8), **options):
    with loader_lib.training_batches(config, rows=rows, store=None) as batches:
      batches.restore(json.loads(json.dumps(state)), **options)
      return [next(batches) for _ in range(count)], batches.state()

  with loader_lib.training_batches(
    of(1.0, 1.0), rows=range(8), store=None
  ) as batches:
    before = [next(batches) for _ in range(3)]
    state = batches.state()
  after, later = resumed(of(7.0, 1.0), state, 12)
  assert later['mixture'] == [
    [0, {'a': 1.0, 'b': 1.0}],
    [24, {'a': 7.0, 'b': 1.0}],
  ]
  of_a = [
    key in {f'k{n}' for n in range(20)} for b in after for key in b['key']
  ]
  assert 0.75 < np.mean(of_a) < 1
  # The stream of each goes on: an epoch of b has each of its records once.
  keys = [k for batch in before + after for k in batch['key'] if len(k) == 4]
  assert len(set(keys[:11])) == len(keys[:11]) > 8
  # Resumed again, with the new rates, on two hosts: what it would have been.
  state = {**later, 'step': 7, 'slot': 56}
  for rows in (range(4), range(4, 8)):
    again, _ = resumed(of(7.0, 1.0), state, 2, rows)
    for batch, whole in zip(again, after[4:]):
      assert batch['key'] == [whole['key'][row] for row in rows]
  # And back to the old ones: a third phase.
  _, third = resumed(of(1.0, 1.0), state, 1)
  assert [slot for slot, _ in third['mixture']] == [0, 24, 56]
  # What was kept before states told the mixture does not tell the rates.
  old = {k: v for k, v in later.items() if k != 'mixture'}
  _, found = resumed(of(7.0, 1.0), old, 1, rates={'a': 1.0, 'b': 1.0})
  assert found['mixture'][0] == [0, {'a': 1.0, 'b': 1.0}]
  assert len(resumed(of(7.0, 1.0), old, 1)[1]['mixture']) == 1


def test_the_size_of_batches_may_change_at_a_resume(toy, twenty, eleven):
  """Every slot comes once, whatever the sizes; and rates may change as well."""

  def of(size, a=1.0):
    tasks = ('a', twenty, a), ('b', eleven, 1.0)
    return toy.config(*tasks, crop='random', batch_size=size)

  def run(config, state, count, rows=None, **options):
    rows = range(config.train.batch_size) if rows is None else rows
    with loader_lib.training_batches(config, rows=rows, store=None) as batches:
      if state:
        batches.restore(json.loads(json.dumps(state)), **options)
      found = [next(batches) for _ in range(count)]
      return found, batches.state()

  def slots(*parts):
    return np.concatenate([batch['slot'] for part in parts for batch in part])

  def keys(*parts):
    return [key for part in parts for batch in part for key in batch['key']]

  whole, _ = run(of(8), None, 8)
  first, state = run(of(8), None, 3)
  assert (state['step'], state['slot']) == (3, 24)
  second, state = run(of(12), state, 2)
  assert (state['step'], state['slot']) == (5, 48)
  third, state = run(of(4), state, 4)
  assert (state['step'], state['slot']) == (9, 64)
  np.testing.assert_array_equal(slots(first, second, third), np.arange(64))
  assert keys(first, second, third) == keys(whole)
  images = [b['image'] for part in (first, second, third) for b in part]
  np.testing.assert_array_equal(
    np.concatenate(images), np.concatenate([b['image'] for b in whole])
  )
  # On another host, from a step within; and with other rates from there on.
  state = {**state, 'step': 4, 'slot': 36}
  some, _ = run(of(12), state, 1, range(5, 12))
  assert keys(some) == second[1]['key'][5:]
  _, state = run(of(12, a=3.0), state, 0)
  assert [slot for slot, _ in state['mixture']] == [0, 36]
  # What was kept before states had a slot does not tell the size.
  old = {'step': 3, **{k: state[k] for k in ('order_version', 'examples')}}
  _, state = run(of(12), old, 0, batch_size=8)
  assert state['slot'] == 24
