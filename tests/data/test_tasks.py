import dataclasses

import numpy as np
import pytest
import seqio

from imagen_jax.data import tasks as tasks_lib


def test_a_mixture_is_registered_once(toy, twenty, eleven):
  config = toy.config(('a', twenty), ('b', eleven, 3.0))
  mixture = tasks_lib.register(config)
  assert tasks_lib.register(config) is mixture
  assert seqio.get_mixture_or_task(mixture.name) is mixture
  rates = [mixture.get_rate(tasks_lib.task(config, name)) for name in 'ab']
  assert rates == [1.0, 3.0]


def test_configs_that_read_differently_do_not_clash(toy, twenty, eleven):
  one = toy.config(('a', twenty))
  others = [
    toy.config(('a', eleven)),
    toy.config(('a', twenty), image_size=4),
    toy.config(('a', twenty), lowres_size=4),
    toy.config(('a', twenty), crop='random'),
    toy.config(('a', twenty), image_size=4, lowres_size=2),
    toy.config(('a', twenty), image_size=4, lowres_size=2, whole_size=8),
  ]
  names = {tasks_lib.task(config, 'a').name for config in [one, *others]}
  assert len(names) == 7
  longer = dataclasses.replace(
    one, train=dataclasses.replace(one.train, num_steps=7)
  )
  assert tasks_lib.register(longer) is tasks_lib.register(one)


def test_a_task_can_be_read_in_seqios_own_way(toy, twenty):
  config = toy.config(('a', twenty), lowres_size=4)
  name = tasks_lib.task(config, 'a').name
  task = seqio.get_mixture_or_task(name)
  assert task.num_input_examples('train') == 20

  def keys(**options):
    found = task.get_dataset(split='train', **options).as_numpy_iterator()
    return [example['key'].decode() for example in found]

  plain = keys(shuffle=False)
  assert plain == [f'k{number}' for number in range(20)]
  shuffled = keys(seed=1)
  assert sorted(shuffled) == sorted(plain) and shuffled != plain
  assert keys(seed=1) == shuffled != keys(seed=2)
  shards = [
    keys(shuffle=False, shard_info=seqio.ShardInfo(index, 3))
    for index in range(3)
  ]
  assert shards == [plain[index::3] for index in range(3)]


def test_a_mixture_can_be_read_in_seqios_own_way(toy, twenty, eleven):
  config = toy.config(('a', twenty), ('b', eleven), lowres_size=4)
  dataset = tasks_lib.register(config).get_dataset(split='heldout', seed=0)
  examples = list(dataset.take(30).as_numpy_iterator())
  assert len({example['caption'] for example in examples}) > 5
  for example in examples:
    assert example['image'].shape == (8, 8, 3)
    assert example['lowres'].shape == (4, 4, 3)
    assert example['image'].dtype == np.uint8


def all_captions(config):
  return [
    caption
    for source in tasks_lib.captions(config)
    for caption in source.read(range(len(source)))
  ]


def test_captions_are_those_of_all_tasks_and_splits(toy, twenty, eleven):
  config = toy.config(('a', twenty), ('b', eleven))
  captions = all_captions(config)
  assert len(captions) == 20 + 5 + 3 * (11 + 2)
  expected = {f'picture {n}' for n in [*range(20), *range(100, 105)]}
  expected |= {f'picture {n} {x}' for n in range(200, 211) for x in 'abc'}
  assert set(captions) == expected


def test_captions_leave_out_what_training_leaves_out(toy, tmp_path):
  examples = [
    toy.example(0, captions=['', 'good']),
    toy.example(1, captions=['']),
    # A bad picture is not looked at.
    {**toy.example(2), 'image': b'bad'},
  ]
  path = toy.write(tmp_path / 'mixed', {'train': examples})
  config = toy.config(('a', path))
  assert all_captions(config) == ['good', 'picture 2']
  assert tasks_lib.num_examples(config) == {'a': {'train': 3}}


def test_captions_have_a_fingerprint_of_their_contents(toy, tmp_path):
  def prints(name, captions, **options):
    examples = [toy.example(0, captions=[caption]) for caption in captions]
    path = toy.write(tmp_path / name, {'train': examples})
    return [
      source.fingerprint
      for source in tasks_lib.captions(toy.config(('a', path), **options))
    ]

  (found,) = prints('one', ['a', 'b'])
  assert prints('same', ['a', 'b'], lowres_size=4) == [found]
  assert prints('other', ['a', 'c']) != [found]
  assert prints('more', ['a', 'b', 'c']) != [found]


def test_a_dataset_of_two_tasks_has_its_captions_once(toy, twenty):
  config = toy.config(('a', twenty), ('b', twenty))
  assert [len(source) for source in tasks_lib.captions(config)] == [20, 5]


def test_examples_are_counted_by_task_and_split(toy, twenty, eleven):
  config = toy.config(('a', twenty), ('b', eleven))
  assert tasks_lib.num_examples(config) == {
    'a': {'train': 20, 'heldout': 5},
    'b': {'train': 11, 'heldout': 2},
  }


def test_tasks_without_held_out_records_are_named(toy, twenty, tmp_path):
  examples = [toy.example(0)]
  without = toy.write(tmp_path / 'without', {'train': examples})
  empty = toy.write(tmp_path / 'empty', {'train': examples, 'heldout': []})
  config = toy.config(('a', without), ('b', twenty), ('c', empty))
  assert tasks_lib.without_heldout(config) == ['a', 'c']
  assert tasks_lib.num_examples(config) == {
    'a': {'train': 1},
    'b': {'train': 20, 'heldout': 5},
    'c': {'train': 1},
  }


def test_no_tasks_are_refused(toy):
  with pytest.raises(ValueError, match='data.tasks is empty; accepted'):
    tasks_lib.register(toy.config())


@pytest.mark.parametrize('name', ['a/b', '', 'a b', 'mixture'])
def test_a_name_that_seqio_does_not_take_is_refused(toy, twenty, name):
  with pytest.raises(ValueError, match=f'has the name {name!r}; accepted'):
    tasks_lib.register(toy.config((name, twenty)))


def test_an_unknown_split_is_refused_at_once(toy, twenty):
  config = toy.config(('a', twenty, 1.0, 'test'))
  with pytest.raises(ValueError, match=r"data.tasks\[a\].split is 'test'"):
    tasks_lib.register(config)
