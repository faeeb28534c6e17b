"""Preprocessors of others: none may change which examples there are."""

import pytest
import tensorflow as tf

from imagen_jax.data import loader as loader_lib
from imagen_jax.data import order as order_lib
from imagen_jax.data import plan as plan_lib
from imagen_jax.data import tasks as tasks_lib


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
