"""From a plan to batches: tasks read apart, and interleaved row by row.

What seqio's mixtures leave to chance, which task an example comes from, is
known here before anything is read. So each task's pipeline is given its own
seats, and its examples are put back where they belong.
"""

from collections.abc import Iterator
import contextlib
import functools
import os

import numpy as np
import seqio
import tensorflow as tf

from imagen_jax import pictures
from imagen_jax.data import plan as plan_lib
from imagen_jax.data import reader as reader_lib
from imagen_jax.data import tally as tally_lib

# What a pipeline without end counts to.
_FOREVER = np.iinfo(np.int64).max

# Examples of each task that are tried before a run starts.
_PROBED = 2


def _task_examples(task, split, number, plan, steps, tally):
  """Returns the dataset of a task's examples of `steps`, preprocessed."""
  source = task.source
  reader = reader_lib.Reader(
    source.records(split), source.taken, plan.order, number, tally
  )
  chosen = reader_lib.seats(steps, functools.partial(plan.seats, task=number))
  seated = task.replace(source=source.at(reader, chosen))
  return seated.get_dataset(
    split=split,
    shuffle=False,
    num_epochs=1,
    trim_output_features=False,
    try_in_mem_cache=False,
  )


def refuse_changed_count(task: seqio.Task, expected, got):
  """Raises ValueError: `task` gave slots `got` in place of `expected`."""
  raise ValueError(
    f'task {task.name!r}: a preprocessor gave slots {list(map(int, got))} '
    f'for {list(map(int, expected))}; accepted: preprocessors that keep the '
    "number and order of examples and their 'slot'"
  )


@contextlib.contextmanager
def own_errors(tally: tally_lib.Tally) -> Iterator[None]:
  """Raises `tally.error` itself, not TensorFlow's pages around it."""
  try:
    yield
  except tf.errors.OpError:
    if tally.error is not None:
      raise tally.error from None
    raise


def probe(task: seqio.Task, split: str, number: int, plan: plan_lib.Plan):
  """Tries a task on its first examples.

  What goes wrong later is seen by the loader, but a filter that drops
  everything would search for ever.

  Args:
    task: over a `PictureSource`.
    split: which it reads.
    number: of the task in `plan.order`.
    plan: which examples go where.

  Raises:
    ValueError: where the task's preprocessors add or drop examples, or none
      of its records can be used.
  """
  step = 0
  while not (plan.tasks(step) == number).any():
    step += 1
  steps = tf.data.Dataset.range(step, step + 1)
  expected = plan.seats(step, number)[0]
  tally = tally_lib.Tally(max_bad_share=1.0)
  examples = _task_examples(task, split, number, plan, steps, tally)
  # One more than fits, to see one that was added.
  examples = examples.take(min(_PROBED, len(expected)) + 1)
  if 'slot' not in examples.element_spec:
    refuse_changed_count(task, expected[:_PROBED], [])
  with own_errors(tally):
    got = [example['slot'] for example in examples.as_numpy_iterator()]
  if got != list(expected[: _PROBED + 1]):
    refuse_changed_count(task, expected[: _PROBED + 1], got)


def default_threads() -> int:
  """Returns how many threads read by default: half of the cores."""
  return max(1, len(os.sched_getaffinity(0)) // 2)


def batches(
  tasks: list[seqio.Task],
  split_names: list[str],
  plan: plan_lib.Plan,
  tally: tally_lib.Tally,
  start_step: int,
  threads: int | None = None,
) -> tf.data.Dataset:
  """Returns the endless dataset of this host's batches, without text.

  Args:
    tasks: in the order of `plan.order`; their sources are `PictureSource`s.
    split_names: which split each reads.
    plan: which examples go where.
    tally: counts bad records.
    start_step: the first batch's step.
    threads: that read and decode; None is `default_threads`.
  """
  steps = tf.data.Dataset.range(start_step, _FOREVER)
  parts = [
    _task_examples(task, split, number, plan, steps, tally)
    for number, (task, split) in enumerate(zip(tasks, split_names))
  ]

  def row_tasks(step):
    numbers = tf.numpy_function(plan.tasks, [step], tf.int64)
    return tf.ensure_shape(numbers, [None])

  turns = steps.map(row_tasks).unbatch()
  mixed = tf.data.Dataset.choose_from_datasets(parts, turns)
  mixed = mixed.batch(len(plan), drop_remainder=True)
  options = tf.data.Options()
  options.deterministic = True
  threads = threads or default_threads()
  pictures.keep_memory(threads)
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  options.autotune.cpu_budget = threads
  options.experimental_optimization.map_fusion = True
  return mixed.with_options(options)
