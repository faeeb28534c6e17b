import collections
import dataclasses
import json

from batches import assert_same
from batches import join
from batches import take
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from imagen_jax.data import loader as loader_lib
from imagen_jax.data import order as order_lib
from imagen_jax.data import plan as plan_lib
from imagen_jax.data import reader as reader_lib
from imagen_jax.data import tasks as tasks_lib


class FakeStore:
  """Embeds a caption as its number of words and of letters."""

  def lookup(self, captions, max_length):
    embed = np.zeros((len(captions), max_length, 2), np.float32)
    embed[:, 0] = [(len(c.split()), len(c)) for c in captions]
    return embed, embed.any(-1)


@pytest.fixture(scope='module')
def mixed(toy, twenty, eleven):
  return toy.config(
    ('a', twenty), ('b', eleven, 2.0), lowres_size=4, crop='random'
  )


@pytest.fixture(scope='module')
def whole(mixed):
  """The first global batches of `mixed`, as one host makes them."""
  return take(mixed, 5, store=FakeStore())


def test_a_batch_is_host_local_numpy(whole):
  batch = whole[0]
  assert batch['image'].shape == (8, 8, 8, 3)
  assert batch['image'].dtype == np.float32
  assert -1 <= batch['image'].min() < -0.9
  assert 0.9 < batch['image'].max() <= 1
  assert batch['lowres'].shape == (8, 4, 4, 3)
  embed, mask = FakeStore().lookup(batch['caption'], 3)
  np.testing.assert_array_equal(batch['text_embed'], embed)
  np.testing.assert_array_equal(batch['text_mask'], mask)
  np.testing.assert_array_equal(batch['slot'], np.arange(8))
  for caption, key in zip(batch['caption'], batch['key']):
    assert caption.split()[1] == key[1:]
  # The second task counts from 200.
  of_key = ['ab'[int(key[1:]) >= 200] for key in batch['key']]
  assert batch['task'] == of_key
  assert set(of_key) == {'a', 'b'}
  assert batch.keys() == {
    'image',
    'lowres',
    'text_embed',
    'text_mask',
    'slot',
    'place',
    'caption',
    'key',
    'task',
  }


def test_pictures_are_those_that_the_captions_tell(toy, twenty):
  (batch,) = take(toy.config(('a', twenty)), 1)
  assert 'lowres' not in batch and 'text_embed' not in batch
  for image, key in zip(batch['image'], batch['key']):
    pixels = np.round((image + 1) * 127.5)
    np.testing.assert_array_equal(pixels, toy.picture(int(key[1:])))
  assert set(batch['task']) == {'a'}


@pytest.mark.parametrize('hosts', [2, 4])
def test_any_number_of_hosts_makes_the_same_batches(mixed, whole, hosts):
  each = mixed.train.batch_size // hosts
  shares = [
    take(mixed, 2, rows=range(h * each, (h + 1) * each), store=FakeStore())
    for h in range(hosts)
  ]
  for batch, parts in zip(whole, zip(*shares)):
    assert_same(batch, join(parts))


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


def test_every_record_comes_once_an_epoch(toy, twenty):
  config = toy.config(('a', twenty), batch_size=10)
  batches = take(config, 4)
  epochs = [batches[0]['key'] + batches[1]['key']]
  epochs.append(batches[2]['key'] + batches[3]['key'])
  for keys in epochs:
    assert sorted(keys) == sorted(f'k{number}' for number in range(20))
  assert epochs[0] != epochs[1]


def test_the_mixture_has_the_exact_proportions(toy, twenty, eleven):
  tasks = ('a', twenty), ('b', eleven, 2.0)
  config = toy.config(*tasks, image_size=4, batch_size=1260)
  counts = collections.Counter()
  for batch in take(config, order_lib.BLOCK // 1260):
    counts.update(int(key[1:]) >= 200 for key in batch['key'])
  assert counts == {False: 1680, True: 3360}


def test_the_seed_decides_the_order(mixed, whole):
  other = dataclasses.replace(
    mixed, train=dataclasses.replace(mixed.train, seed=1)
  )
  assert take(other, 1)[0]['key'] != whole[0]['key']


def test_captions_of_a_record_take_turns(toy, eleven):
  config = toy.config(('b', eleven), batch_size=110)
  (batch,) = take(config, 1)
  which = collections.Counter(caption[-1] for caption in batch['caption'])
  assert set(which) == set('abc') and min(which.values()) > 20


def test_lowres_is_of_the_same_crop(toy, tmp_path):
  path = toy.write(
    tmp_path / 'wide',
    {'train': [toy.example(number, 8, 24) for number in range(4)]},
  )
  config = toy.config(('a', path), lowres_size=4, crop='random')
  (batch,) = take(config, 1)
  for image, lowres in zip(batch['image'], batch['lowres']):
    pixels = Image.fromarray(np.round((image + 1) * 127.5).astype(np.uint8))
    small = np.asarray(pixels.resize((4, 4), Image.Resampling.HAMMING))
    # Columns at the edges take in a little of what lies beside the crop.
    inside = np.s_[:, 1:-1]
    np.testing.assert_allclose(
      lowres[inside], (small / 127.5 - 1)[inside], atol=1e-6
    )


def test_held_out_batches_come_as_they_lie_whatever_the_seed(mixed):
  other = dataclasses.replace(
    mixed, train=dataclasses.replace(mixed.train, seed=1)
  )
  batches = [
    take(config, 2, open_batches=loader_lib.eval_batches)
    for config in (mixed, other)
  ]
  for one, same in zip(*batches):
    assert_same(one, same)
  keys = [key for batch in batches[0] for key in batch['key']]
  # Those of task b are the first two of its training records again.
  from_a, from_b = ([k for k in keys if k[1] == digit] for digit in '12')
  assert len(from_a) + len(from_b) == 16 and len(from_a) >= 2
  assert from_a == [f'k{100 + n % 5}' for n in range(len(from_a))]
  assert from_b == [f'k{200 + n % 2}' for n in range(len(from_b))]


def test_a_held_out_split_that_is_missing_is_refused(toy, tmp_path):
  path = toy.write(tmp_path / 'one', {'train': [toy.example(0)]})
  with pytest.raises(ValueError, match=r"split is 'heldout'; accepted: one of"):
    loader_lib.eval_batches(toy.config(('a', path)), rows=range(8), store=None)


def bad_examples(toy):
  """Returns 12 examples of which 3 are bad, each in its own way."""
  examples = [toy.example(number) for number in range(12)]
  examples[2] = {**examples[2], 'image': b'not a picture'}
  examples[5] = toy.example(5, captions=[' '])
  examples[9] = toy.example(9, height=7)
  return examples


def test_bad_records_are_replaced_alike_on_every_host(toy, tmp_path):
  path = toy.write(tmp_path / 'bad', {'train': bad_examples(toy)})
  config = toy.config(('a', path), batch_size=12, max_bad_share=1.0)
  rows = range(12)
  with loader_lib.training_batches(config, rows=rows, store=None) as batches:
    whole = [next(batches) for _ in range(3)]
    counts = batches.tally.counts()['a']
  bad = {'k2', 'k5', 'k9'}
  for batch in whole:
    keys = collections.Counter(batch['key'])
    assert len(batch['key']) == 12 and not bad & set(keys)
    # Whatever could be used is there, and three of it twice.
    assert len(keys) == 9
  assert set(counts['bad']) == {'undecodable picture', 'empty caption'}
  assert set(counts['dropped']) == {'shorter side under 8 pixels'}
  assert counts['seen'] >= 36 + 9
  parts = [take(config, 3, rows=rows) for rows in (range(5), range(5, 12))]
  for batch, halves in zip(whole, zip(*parts)):
    assert_same(batch, join(halves))


def test_too_many_bad_records_stop_the_run_with_a_table(toy, tmp_path):
  path = toy.write(tmp_path / 'bad', {'train': bad_examples(toy)})
  config = toy.config(('a', path), batch_size=12, max_bad_share=0.05)
  with pytest.raises(ValueError, match="task 'a': .* records are bad") as found:
    take(config, 100)
  table = str(found.value).splitlines()
  assert 'data.max_bad_share (0.05)' in table[0]
  for reason, key in [
    ('empty caption', 'k5'),
    ('undecodable picture', 'k2'),
  ]:
    assert any(f'a: {reason}: ' in line and key in line for line in table[1:])


def test_a_task_of_bad_records_alone_stops_at_once(toy, tmp_path):
  examples = [toy.example(number, captions=['']) for number in range(3)]
  path = toy.write(tmp_path / 'bad', {'train': examples})
  with pytest.raises(ValueError, match='none of 3 records .* can be used'):
    take(toy.config(('a', path)), 1)


def test_a_large_task_is_not_searched_to_its_end(toy, tmp_path, monkeypatch):
  monkeypatch.setattr(reader_lib, '_MAX_TRIED', 4)
  examples = [toy.example(number, 7) for number in range(30)]
  path = toy.write(tmp_path / 'small', {'train': examples})
  with pytest.raises(ValueError, match='(?s)none of 4 records .*: 4 of 4 .100'):
    take(toy.config(('a', path)), 1)


def test_the_store_s_error_reaches_the_reader(mixed):
  class Empty:
    def lookup(self, captions, max_length):
      raise ValueError(f'{len(captions)} captions are missing')

  rows = range(8)
  with loader_lib.training_batches(mixed, rows=rows, store=Empty()) as batches:
    for _ in range(2):  # Again, where the first was not heeded.
      with pytest.raises(ValueError, match='8 captions are missing'):
        next(batches)


def make(config, preprocessors, **changes):
  """Returns a loader whose one task has other preprocessors."""
  task = tasks_lib.task(config, 'a')
  task = task.replace(
    preprocessors=[*preprocessors, *task.preprocessors], **changes
  )
  order = order_lib.Order(0, ('a',), (1.0,), (20,))
  return loader_lib.Loader(
    [task],
    ['train'],
    plan_lib.Plan(order, 8, range(8)),
    store=None,
    max_length=3,
    max_bad_share=0.0,
    prefetch=1,
  )


@pytest.mark.parametrize(
  'preprocessor',
  [
    lambda dataset: dataset.filter(lambda example: False),
    lambda dataset: dataset.skip(1),
    lambda dataset: dataset.flat_map(
      lambda example: tf.data.Dataset.from_tensors(example).repeat(2)
    ),
  ],
  ids=['drops all', 'drops the first', 'doubles'],
)
def test_a_preprocessor_that_changes_the_count_is_refused(
  toy, twenty, preprocessor
):
  config = toy.config(('a', twenty))
  with pytest.raises(ValueError, match="task 'imagen_jax:.*:a': a preproc"):
    make(config, [preprocessor])


def test_a_preprocessor_that_drops_one_later_is_refused(toy, twenty):
  config = toy.config(('a', twenty))

  def drop(dataset):
    return dataset.filter(lambda example: example['slot'] != 13)

  with make(config, [drop]) as batches:
    next(batches)
    with pytest.raises(ValueError, match=r'gave slots \[14\] for \[13\]'):
      next(batches)


def test_a_preprocessor_that_hides_the_slot_is_refused(toy, twenty):
  config = toy.config(('a', twenty))

  def hide(dataset):
    return dataset.map(
      lambda example: {k: v for k, v in example.items() if k != 'slot'}
    )

  features = dict(tasks_lib.task(config, 'a').output_features)
  del features['slot']
  with pytest.raises(ValueError, match=r'gave slots \[\] for \[0, 1\]'):
    make(config, [hide], output_features=features)


@pytest.mark.parametrize('rows', [range(9), [], range(-1, 4), [1, 1], [2, 0]])
def test_rows_outside_of_the_batch_are_refused(mixed, rows):
  with pytest.raises(ValueError, match='rows are .*; accepted: some of the'):
    loader_lib.training_batches(mixed, rows=rows, store=None)


def test_rows_need_not_be_neighbours(mixed):
  (whole,) = take(mixed, 1, store=FakeStore())
  (some,) = take(mixed, 1, rows=[0, 1, 6], store=FakeStore())
  np.testing.assert_array_equal(some['image'], whole['image'][[0, 1, 6]])
  assert some['key'] == [whole['key'][row] for row in (0, 1, 6)]


def test_waiting_is_counted_and_closing_stops_the_thread(mixed):
  rows = range(8)
  batches = loader_lib.training_batches(mixed, rows=rows, store=None)
  next(batches)
  assert batches.wait_seconds > 0
  thread = batches._worker._thread
  batches.close()
  assert not thread.is_alive()
  batches.close()


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
