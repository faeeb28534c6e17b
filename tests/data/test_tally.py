import pytest

from imagen_jax.data import tally as tally_lib


def test_counts_and_table_tell_task_reason_and_the_first_keys():
  tally = tally_lib.Tally(1.0)
  for _ in range(3):
    tally.add_good('a')
  for number in range(7):
    tally.add_bad('a', 'undecodable picture', f'k{number}')
  tally.add_bad('b', 'empty caption', 'x')
  tally.add_bad('b', 'empty caption', 'x')
  assert tally.counts() == {
    'a': {'seen': 10, 'bad': {'undecodable picture': 7}, 'dropped': {}},
    'b': {'seen': 2, 'bad': {'empty caption': 2}, 'dropped': {}},
  }
  assert tally.table() == (
    '  a: undecodable picture: 7 (k0, k1, k2, k3, k4, ...)\n'
    '  b: empty caption: 2 (x)'
  )
  assert tally.dropped_table() == ''


def test_dropped_records_are_told_with_their_share():
  tally = tally_lib.Tally(0.0)
  for _ in range(3):
    tally.add_dropped('a', 'too small')
  tally.add_good('a')
  assert tally.counts() == {
    'a': {'seen': 4, 'bad': {}, 'dropped': {'too small': 3}}
  }
  assert tally.dropped_table() == '  a: too small: 3 of 4 (75.0%)'
  assert tally.table() == ''


def test_dropped_records_do_not_stop_a_run():
  tally = tally_lib.Tally(0.01)
  for number in range(10_000):
    tally.add_dropped('a', 'too small')
    if number % 200 == 0:
      # 1% of what can be used, half of that of all.
      tally.add_bad('a', 'empty caption', 'k')
  assert tally.error is None


def test_a_share_clearly_over_the_limit_stops_after_enough_records():
  tally = tally_lib.Tally(0.01)
  for number in range(tally_lib.MIN_SEEN - 1):
    tally.add_bad('a', 'empty caption', f'k{number}')
  with pytest.raises(ValueError, match='100 of 100 records are bad') as caught:
    tally.add_bad('a', 'empty caption', 'last')
  assert 'data.max_bad_share (0.01)' in str(caught.value)
  assert '  a: empty caption: 100 (k0, k1' in str(caught.value)
  assert tally.error is caught.value


def test_each_task_has_its_own_share():
  tally = tally_lib.Tally(0.1)
  for _ in range(10_000):
    tally.add_good('large')
  with pytest.raises(ValueError, match="task 'small'"):
    for _ in range(200):
      tally.add_bad('small', 'empty caption', 'k')


def test_a_share_at_the_limit_goes_on():
  tally = tally_lib.Tally(0.05)
  for number in range(20_000):
    if number % 20:
      tally.add_good('a')
    else:
      tally.add_bad('a', 'empty caption', 'k')
  assert tally.error is None


def test_a_limit_of_none_stops_at_the_first():
  tally = tally_lib.Tally(0.0)
  tally.add_good('a')
  with pytest.raises(ValueError, match='1 of 2 records are bad'):
    tally.add_bad('a', 'empty caption', 'k')


def test_a_task_without_usable_records_stops_at_once():
  tally = tally_lib.Tally(1.0)
  tally.add_bad('a', 'empty caption', 'k')
  tally.add_dropped('a', 'too small')
  words = "^task 'a': none of 2 records of 'train' can be used; accepted: usab"
  with pytest.raises(ValueError, match=words) as caught:
    tally.add_hopeless('a', 'train', 2)
  assert tally.error is caught.value
  assert str(caught.value).splitlines()[1:] == [
    '  a: empty caption: 1 (k)',
    '  a: too small: 1 of 2 (50.0%)',
  ]


def test_bad_records_are_listed_once_and_bounded(monkeypatch):
  monkeypatch.setattr(tally_lib, 'MAX_LISTED', 2)
  tally = tally_lib.Tally(1.0)
  for key in ('x', 'x', 'y', 'z'):
    tally.add_bad('a', 'empty caption', key)
  tally.add_dropped('a', 'too small')
  assert tally.listed() == [
    {'task': 'a', 'key': 'x', 'reason': 'empty caption'},
    {'task': 'a', 'key': 'y', 'reason': 'empty caption'},
  ]
