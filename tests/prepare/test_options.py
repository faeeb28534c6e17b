"""What a person may set of a build."""

import pytest

from imagen_jax import config
from imagen_jax.prepare import options


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'sizes': ()}, "--sizes is ''; accepted: pixels, each more than"),
    ({'sizes': (64, 64)}, "--sizes is '64,64'; accepted"),
    ({'sizes': (256, 64)}, "--sizes is '256,64'; accepted"),
    ({'sizes': (0, 64)}, "--sizes is '0,64'; accepted"),
    ({'form': 'gif'}, "--format is 'gif'; accepted: jpeg, png, webp"),
    ({'duplicates': 'x'}, "--duplicates is 'x'; accepted: near, exact, keep"),
    ({'near_bits': 4}, '--near-bits is 4; accepted: 0 to 3'),
    ({'num_shards': 0}, '--num-shards is 0; accepted: 1 or more'),
    ({'shard_mib': 0}, '--shard-mib is 0; accepted: 1 or more'),
    ({'keep': ('key',)}, r"--keep is \['key'\]; accepted: fields of the meta"),
  ],
)
def test_what_cannot_be_is_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    options.Options(**{'sizes': (64,), **fields})


def several(*names):
  tasks = tuple(config.TaskConfig(name, 'x') for name in names)
  return config.Config(data=config.DataConfig(tasks=tasks))


def test_tasks_are_chosen_in_the_order_of_the_config():
  three = several('a', 'b', 'c')
  assert [t.name for t in options.chosen(three, [])] == ['a', 'b', 'c']
  assert [t.name for t in options.chosen(three, ['c', 'a'])] == ['a', 'c']


@pytest.mark.parametrize(
  'names, wanted, words',
  [
    ((), [], 'data.tasks is empty; accepted: at least one'),
    (('a',), ['b'], r"--task is \['b'\]; accepted: tasks of the config"),
    (('report.json',), [], "has the name 'report.json'; accepted: names that"),
    (('..',), [], "has the name '..'; accepted"),
    (('a/b',), [], "has the name 'a/b'; accepted"),
  ],
)
def test_tasks_that_are_none_are_refused(names, wanted, words):
  with pytest.raises(ValueError, match=words):
    options.chosen(several(*names), wanted)
