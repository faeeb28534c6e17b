"""What is taken of records besides their pictures."""

import numpy as np

from imagen_jax.data import order as order_lib
from imagen_jax.data import reader as reader_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import squares as squares_lib

SEEDS = order_lib.Order(0, ('a',), (1.0,), (10,)).example_seed(np.arange(900))


def taken(captions):
  return reader_lib.Taken(squares_lib.Squares(8), captions)


def record(*captions, key='k'):
  return records_lib.Record(None, captions, key)


def test_captions_are_drawn_about_equally():
  some = taken('random')
  found = [
    some.caption(record('a', 'b', 'c'), int(word), 0)
    for word in order_lib.words(SEEDS)
  ]
  counts = [found.count(caption) for caption in 'abc']
  assert sum(counts) == 900 and min(counts) > 250


def test_captions_come_in_turns_from_one_of_the_records_own():
  some = taken('turns')
  firsts = set()
  for number in range(20):
    entry = record('a', 'b', 'c', key=f'k{number}')
    turns = [some.caption(entry, 7 * epoch, epoch) for epoch in range(6)]
    assert sorted(turns[:3]) == ['a', 'b', 'c'] and turns[3:] == turns[:3]
    firsts.add(turns[0])
  assert firsts == {'a', 'b', 'c'}


def test_places_are_spread_and_do_not_hang_together():
  places = order_lib.places(SEEDS)
  assert places.shape == (900, 2) and (0 <= places).all() and (places < 1).all()
  for share in places.T:
    assert np.histogram(share, 10, (0, 1))[0].min() > 60
  draws = np.column_stack([places, order_lib.words(SEEDS) % 2])
  correlated = np.corrcoef(draws.T) - np.eye(3)
  assert np.abs(correlated).max() < 0.12
