"""Batches for one host, ahead of time, from any step.

Each step's global batch holds the next `batch_size` slots; a loader makes some
of its rows. Which examples those are, and how they are cropped, is a function
of the seed and the slot (see `order.py`), so the whole position of a run in its
data is the number of a step and of its first slot, and at which slots the rates
of its mixture were changed.
"""

from collections.abc import Sequence
import dataclasses
import time

import numpy as np
import seqio

from imagen_jax import config as config_lib
from imagen_jax.data import order as order_lib
from imagen_jax.data import pipeline
from imagen_jax.data import plan as plan_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import squares as squares_lib
from imagen_jax.data import tally as tally_lib
from imagen_jax.data import tasks as tasks_lib
from imagen_jax.data import worker


class Loader:
  """An endless iterator over one host's batches, prepared in the background.

  A batch is a dict of host-local numpy arrays: `image`, float32 [b, S, S, 3]
  in [-1, 1]; `lowres` for a stage that has one; `text_embed` [b, L, D] and
  `text_mask`, bool [b, L], where there is a store; `slot`, int64 [b]; `place`,
  float64 [b, 2], where random crops lie (`order.places`); and lists of strings,
  `caption`, `key` and `task`.

  Use it as a context manager, or call `close`.

  Attributes:
    wait_seconds: how long `next` has waited for batches, in all.
    tally: counts of the records read, and of the bad ones among them.
  """

  def __init__(
    self,
    tasks: list[seqio.Task],
    split_names: list[str],
    plan: plan_lib.Plan,
    *,
    store,
    max_length: int,
    max_bad_share: float,
    prefetch: int,
    threads: int | None = None,
    start_step: int = 0,
  ):
    """Opens a loader; `training_batches` and `eval_batches` are simpler.

    Args:
      tasks: seqio Tasks over `PictureSource`s, in the order of `plan.order`.
      split_names: which split each reads.
      plan: which examples go where.
      store: has `lookup(captions, max_length)` that returns the embeddings
        [b, L, D] and mask [b, L] of captions; None leaves text out.
      max_length: tokens of an embedding, L.
      max_bad_share: largest accepted share of bad records of a task.
      prefetch: batches prepared ahead, at least 1.
      threads: see `pipeline.batches`.
      start_step: the first batch's step.

    Raises:
      ValueError: where a task's preprocessors change the number of examples.
    """
    self.wait_seconds = 0.0
    self.tally = tally_lib.Tally(max_bad_share)
    self._tasks = tasks
    self._split_names = split_names
    self._plan = plan
    self._store = store
    self._max_length = max_length
    self._prefetch = prefetch
    self._threads = threads
    self._step = start_step
    self._worker = None
    for number, (task, split) in enumerate(zip(tasks, split_names)):
      pipeline.probe(task, split, number, plan)

  def __iter__(self):
    return self

  def __next__(self) -> dict:
    """Returns the next batch.

    Raises:
      ValueError: where too many records are bad, or a preprocessor changed the
        number of examples; whatever the store raises.
    """
    if self._worker is None:
      batches = self._make_batches(self._step)
      self._worker = worker.Worker(batches, self._prefetch)
    before = time.perf_counter()
    batch = self._worker.get()
    self.wait_seconds += time.perf_counter() - before
    self._step += 1
    return batch

  def _make_batches(self, step):
    dataset = pipeline.batches(
      *(self._tasks, self._split_names, self._plan, self.tally),
      *(step, self._threads),
    )
    with pipeline.own_errors(self.tally):
      for batch in dataset.as_numpy_iterator():
        self._check_slots(step, batch['slot'])
        for name in ('caption', 'key'):
          batch[name] = [text.decode() for text in batch[name]]
        names = self._plan.order.names
        batch['task'] = [names[n] for n in self._plan.tasks(step)]
        batch['place'] = order_lib.places(batch.pop('seed'))
        for name in {'image', 'lowres'} & batch.keys():
          batch[name] = squares_lib.floats(batch[name])
        if self._store is not None:
          embed, mask = self._store.lookup(batch['caption'], self._max_length)
          batch['text_embed'], batch['text_mask'] = embed, mask
        yield batch
        step += 1

  def _check_slots(self, step, got):
    expected = self._plan.slots(step)
    if not np.array_equal(got, expected):
      row = np.flatnonzero(got != expected)[0]
      task = self._tasks[self._plan.tasks(step)[row]]
      pipeline.refuse_changed_count(
        task, expected[row : row + 1], got[row : row + 1]
      )

  def state(self, step: int | None = None) -> dict:
    """Returns a position, as JSON can hold it.

    Args:
      step: of the next batch; None is the one behind the last batch given.
    """
    order = self._plan.order
    step = self._step if step is None else step
    return {
      'step': step,
      'slot': self._plan.first_slot(step),
      'order_version': order_lib.VERSION,
      'examples': dict(zip(order.names, order.sizes)),
      'mixture': [
        [slot, dict(zip(order.names, rates))]
        for slot, rates in ((0, order.rates), *order.changes)
      ],
      'fingerprints': {
        name: task.source.records(split).fingerprint
        for name, task, split in zip(
          order.names, self._tasks, self._split_names
        )
      },
    }

  def restore(
    self,
    state: dict,
    *,
    allow_other_data: bool = False,
    rates: dict[str, float] | None = None,
    batch_size: int | None = None,
  ):
    """Goes to a position that `state` returned, however far away.

    Where the rates of the tasks, or the size of batches, are others now, they
    are so from the first batch after the position on; what came before is as
    it was.

    Args:
      state: the position; one of before 0.1.0 has no fingerprints, no mixture
        and no slot.
      allow_other_data: go on though as many examples are others.
      rates: of the tasks, when a state that has no mixture was made; None is
        those of now.
      batch_size: when a state that has no slot was made; None is that of now.

    Raises:
      ValueError: where the data is no longer what the position was in.
    """
    now = self.state()
    compared = ['order_version', 'examples']
    if 'fingerprints' in state and not allow_other_data:
      compared.append('fingerprints')
    for field in compared:
      if state[field] != now[field]:
        raise ValueError(
          f'the data has changed since the checkpoint: {field} was '
          f'{state[field]}, is {now[field]}; accepted: the same, a new '
          'workdir, or --allow-config-change where only fingerprints differ'
        )
    self.close()
    self._step = state['step']
    order = self._plan.order
    last = order.changes[-1][1] if order.changes else order.rates
    rates = rates or dict(zip(order.names, last))
    first, *later = state.get('mixture', [[0, rates]])
    in_order = lambda named: tuple(named[name] for name in order.names)
    order = dataclasses.replace(
      order,
      rates=in_order(first[1]),
      changes=tuple((slot, in_order(named)) for slot, named in later),
    )
    batch_size = batch_size or self._plan.batch_size
    slot = state.get('slot', self._step * batch_size)
    order = order.changed(slot, last)
    self._plan = self._plan.reordered(order, self._step, slot)

  def close(self):
    """Stops the background work. A later `next` starts it again."""
    if self._worker is not None:
      self._worker.close()
      self._worker = None

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()


def training_batches(
  config: config_lib.Config,
  *,
  rows: Sequence[int],
  store,
  start_step: int = 0,
) -> Loader:
  """Returns the batches that `config` trains on: shuffled, mixed, endless.

  Args:
    config: the run.
    rows: which rows of the global batch this host makes, ascending.
    store: the text embeddings; see `Loader`. None leaves text out.
    start_step: the first batch's step.

  Raises:
    ValueError: where the tasks are missing or wrong.
  """
  return _loader(
    config,
    [task.split for task in config.data.tasks],
    rows,
    store,
    start_step,
    seed=config.train.seed,
    shuffle=True,
  )


def eval_batches(
  config: config_lib.Config,
  *,
  rows: Sequence[int],
  store,
  start_step: int = 0,
  split: str = records_lib.HELDOUT,
) -> Loader:
  """Returns held-out batches, in the same order whatever the run's seed.

  Records come in the order in which they lie in their dataset, tasks mixed at
  their rates, from the front again after the last; captions and crops are
  chosen as in training.

  Args:
    config: the run.
    rows: as for `training_batches`.
    store: as for `training_batches`.
    start_step: as for `training_batches`.
    split: of every task.

  Raises:
    ValueError: where the tasks are missing or wrong, or have no such split.
  """
  return _loader(
    config,
    [split] * len(config.data.tasks),
    rows,
    store,
    start_step,
    seed=0,
    shuffle=False,
  )


def _loader(config, split_names, rows, store, start_step, *, seed, shuffle):
  tasks = [tasks_lib.task(config, entry.name) for entry in config.data.tasks]
  mixture = tasks_lib.register(config)
  order = order_lib.Order(
    seed=seed,
    names=tuple(entry.name for entry in config.data.tasks),
    rates=tuple(mixture.get_rate(task) for task in tasks),
    sizes=tuple(
      len(task.source.records(split)) for task, split in zip(tasks, split_names)
    ),
    shuffle=shuffle,
  )
  return Loader(
    tasks,
    split_names,
    plan_lib.Plan(order, config.train.batch_size, rows),
    store=store,
    max_length=config.text.max_length,
    max_bad_share=config.data.max_bad_share,
    prefetch=config.data.prefetch,
    threads=config.data.threads,
    start_step=start_step,
  )
