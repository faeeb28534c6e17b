"""Batches of one host, and of several."""

import collections
import dataclasses

from batches import FakeStore
from batches import assert_same
from batches import join
from batches import take
import numpy as np
from PIL import Image
import pytest

from imagen_jax.data import loader as loader_lib
from imagen_jax.data import order as order_lib


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


def test_the_store_s_error_reaches_the_reader(mixed):
  class Empty:
    def lookup(self, captions, max_length):
      raise ValueError(f'{len(captions)} captions are missing')

  rows = range(8)
  with loader_lib.training_batches(mixed, rows=rows, store=Empty()) as batches:
    for _ in range(2):  # Again, where the first was not heeded.
      with pytest.raises(ValueError, match='8 captions are missing'):
        next(batches)


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
