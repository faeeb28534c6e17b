"""What a person wants to know about a config's data before training on it."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import time

import numpy as np
from PIL import Image

from imagen_jax import config as config_lib
from imagen_jax import grid as grid_lib
from imagen_jax.data import loader as loader_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import tally as tally_lib
from imagen_jax.data import tasks as tasks_lib

# For how long the reading speed is measured.
_SECONDS = 3.0
_SPEED_ROWS = 64

# The sheet is at most about this wide, in pixels of pictures.
_SHEET_WIDTH = 1600


def of_task(config: config_lib.Config, name: str) -> config_lib.Config:
  """Returns the config with one of its tasks alone.

  Raises:
    ValueError: where it has no such task.
  """
  tasks = tuple(task for task in config.data.tasks if task.name == name)
  if not tasks:
    names = [task.name for task in config.data.tasks]
    raise ValueError(f'--task is {name!r}; accepted: one of {names}')
  return dataclasses.replace(
    config, data=dataclasses.replace(config.data, tasks=tasks)
  )


def describe(
  config: config_lib.Config,
  *,
  scan: int,
  seconds: float = _SECONDS,
  count: Callable[[list[str]], list[int]] | None = None,
) -> Iterator[str]:
  """Yields the lines of a report on the data of `config`.

  Args:
    config: the run.
    scan: how many records of each split are read, evenly spread.
    seconds: for how long the reading speed is measured; 0 leaves it out.
    count: returns how many tokens captions have, uncut; None leaves it out.

  Raises:
    ValueError: where the tasks are missing or wrong, or too many of the
      records are bad.
  """
  longest = config.text.max_length
  total = sum(task.rate for task in config.data.tasks)
  # Told, not enforced: a report is for looking at bad data, too.
  tally = tally_lib.Tally(max_bad_share=1.0)
  parts = tasks_lib.splits(config)
  for task in config.data.tasks:
    yield f'task {task.name}: {task.rate / total:.1%} of the mixture'
    for records in parts[task.name]:
      captions, sizes = _scan(records, scan, tally)
      yield f'  {records.split}: {len(records):,} records'
      yield f'    captions: {_describe_captions(captions)}'
      if count and captions:
        yield f'    tokens: {_describe_tokens(count(captions), longest)}'
      yield f'    pictures: {_describe_sizes(sizes)}'
  bad, dropped = tally.table(), tally.dropped_table()
  yield f'bad records:\n{bad}' if bad else 'bad records: none'
  yield f'dropped records:\n{dropped}' if dropped else 'dropped records: none'
  if seconds:
    yield f'reading: {_speed(config, seconds):,.0f} images/s'


def _scan(records, scan, tally):
  """Reads records; returns their captions and their pictures' sizes."""
  captions, sizes = [], []
  count = min(scan, len(records))
  for number in range(count):
    index = number * len(records) // count
    try:
      record = records.read(index)
    except records_lib.BadRecordError as error:
      tally.add_bad(records.name, str(error), records.key(index))
    except records_lib.DroppedRecordError as error:
      tally.add_dropped(records.name, str(error))
    else:
      tally.add_good(records.name)
      captions.extend(record.captions)
      sizes.append((record.picture.height, record.picture.width))
  return captions, sizes


def _describe_captions(captions):
  if not captions:
    return 'none'
  words = [len(caption.split()) for caption in captions]
  return (
    f'{len(set(captions)):,} distinct among {len(captions):,} read, '
    f'{min(words)} to {max(words)} words (mean {np.mean(words):.1f})'
  )


def _describe_tokens(lengths, longest):
  lengths = np.array(lengths)
  cut = (lengths > longest).mean()
  return (
    f'{lengths.min()} to {lengths.max()} (mean {lengths.mean():.1f}, 95% have '
    f'at most {np.percentile(lengths, 95, method="higher")}), {cut:.1%} over '
    f'text.max_length ({longest}) and cut'
  )


def _describe_sizes(sizes):
  if not sizes:
    return 'none'
  short, long = np.min(sizes, 1), np.max(sizes, 1)
  return (
    f'{len(sizes):,} read, shorter side {short.min()} to {short.max()}, '
    f'longer side {long.min()} to {long.max()} pixels'
  )


def _speed(config, seconds):
  """Returns how many images a second a loader gives, once it runs."""
  # A share such as one host has: a global batch may be more than fits here.
  rows = range(min(_SPEED_ROWS, config.train.batch_size))
  # The first batches were ready, or being made, before the clock started.
  warm = config.data.prefetch + 1
  with loader_lib.training_batches(config, rows=rows, store=None) as batches:
    for _ in range(warm):
      next(batches)
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
      count += len(next(batches)['slot'])
    return count / (time.perf_counter() - start)


def contact_sheet(config: config_lib.Config, *, num: int) -> Image.Image:
  """Returns the first pictures that `config` trains on, with captions.

  They are what the network sees: cropped, and of the stage's size, with
  `lowres` enlarged to the right of each where the stage has one.

  Args:
    config: the run.
    num: how many pictures.

  Raises:
    ValueError: as `describe`.
  """
  train = dataclasses.replace(config.train, batch_size=num)
  config = dataclasses.replace(config, train=train)
  with loader_lib.training_batches(
    config, rows=range(num), store=None
  ) as batches:
    batch = next(batches)
  images = _to_pixels(batch['image'])
  if 'lowres' in batch:
    lowres = _to_pixels(batch['lowres'])
    factor = images.shape[1] // lowres.shape[1]
    lowres = lowres.repeat(factor, 1).repeat(factor, 2)
    gap = np.full_like(images[:, :, : max(1, images.shape[2] // 32)], 255)
    images = np.concatenate([images, gap, lowres], 2)
  columns = max(1, min(8, num, _SHEET_WIDTH // images.shape[2]))
  return grid_lib.grid(
    images,
    batch['caption'],
    columns,
    footer=tasks_lib.attribution(config) or None,
  )


def _to_pixels(x):
  """Returns pictures in [-1, 1] as uint8."""
  return np.round((np.asarray(x) + 1) * 127.5).clip(0, 255).astype(np.uint8)
