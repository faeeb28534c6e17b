"""Records that cannot be used, in batches."""

import collections

from batches import assert_same
from batches import join
from batches import take
import pytest

from imagen_jax.data import loader as loader_lib
from imagen_jax.data import reader as reader_lib


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
