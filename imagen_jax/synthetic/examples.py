"""The examples of a dataset, made or read by several workers at once.

An example is {'image': encoded bytes, 'captions': strings, 'key': string}. The
two context managers of this file yield how many examples to expect, and pairs
(split, examples of it).
"""

import collections
import concurrent.futures
import contextlib
import functools
import io
import itertools
import multiprocessing
import os
import warnings

import numpy as np
from PIL import Image

from imagen_jax.synthetic import folder
from imagen_jax.synthetic import holdout
from imagen_jax.synthetic import openmoji
from imagen_jax.synthetic import shapes

SPLITS = ('train', 'heldout')
CHUNK = 32  # Examples made at a time: few enough to hold large pictures.

_MIN_HELDOUT = 64
_HELDOUT_SHARE = 0.02
# Below this many examples, starting workers takes longer than they save.
_POOL_PAYS = 2000
_MAX_WORKERS = 16


@contextlib.contextmanager
def drawn(parameters: dict, tally: folder.Tally):
  """Yields how many examples there are, and (split, examples) of each split.

  Example i is a function of the parameters, its split and i, so that it does
  not matter which worker draws it.
  """
  del tally  # Nothing that we draw is bad.
  num_train = parameters['num_examples']
  num_heldout = max(_MIN_HELDOUT, round(_HELDOUT_SHARE * num_train))
  numbers = {'train': num_train, 'heldout': min(num_heldout, num_train)}
  total = sum(numbers.values())
  with contextlib.ExitStack() as stack:
    run = map
    if total >= _POOL_PAYS:
      pool = stack.enter_context(
        concurrent.futures.ProcessPoolExecutor(
          min(len(os.sched_getaffinity(0)), _MAX_WORKERS),
          # A fork of a process with threads can hang.
          mp_context=multiprocessing.get_context('spawn'),
        )
      )
      run = functools.partial(_in_order, pool)

    def examples(split):
      starts = range(0, numbers[split], CHUNK)
      ranges = [(s, min(s + CHUNK, numbers[split])) for s in starts]
      draw = functools.partial(_draw, parameters, split)
      return itertools.chain.from_iterable(run(draw, ranges))

    yield total, ((split, examples(split)) for split in SPLITS)


def _draw(parameters, split, span):
  """Returns examples number span[0] to span[1] - 1 of a drawn split."""
  size, seed = parameters['size'], parameters['seed']
  if parameters['dataset'] == 'openmoji':
    world = openmoji
    names = openmoji.choose_objects(parameters['num_objects'])
    sample = functools.partial(openmoji.sample_scene, names=names)
  else:
    world = shapes
    sample = shapes.sample_scene
  examples = []
  for index in range(*span):
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene = sample(rng, split=split)
    encoded = io.BytesIO()
    Image.fromarray(world.render(scene, size)).save(encoded, 'PNG')
    examples.append(
      {
        'image': encoded.getvalue(),
        'captions': [world.caption(scene.statement)],
        'key': f'{split}-{index:09d}',
      }
    )
  return examples


def _in_order(pool, function, items):
  """Yields function(item) of each item, in order, worked out in `pool`.

  As `pool.map`, but at most a few results wait at a time: a set need not fit
  into memory.
  """
  waiting = collections.deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > 2 * _MAX_WORKERS:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:  # Left early: what has not begun need not.
    for future in waiting:
      future.cancel()


@contextlib.contextmanager
def from_folder(parameters: dict, tally: folder.Tally):
  """Yields how many lines are usable, and (split, examples) of each split.

  Held out are the pictures whose names hash lowest, so that adding pictures
  to a folder moves few of the others.
  """
  source = parameters['source']
  entries = folder.read_entries(source, tally)[: parameters['num_examples']]
  num_heldout = max(1, min(_MIN_HELDOUT, round(_HELDOUT_SHARE * len(entries))))
  by_hash = sorted(
    range(len(entries)),
    key=lambda index: holdout.share('folder', entries[index].file),
  )
  done = set()

  def usable(indices):
    def read(index):
      try:
        return index, folder.read_picture(source, entries[index].file)
      except folder.Skipped as reason:
        return index, reason

    for index, image in _in_order(pool, read, indices):
      done.add(index)
      file = entries[index].file
      if isinstance(image, folder.Skipped):
        tally.add(str(image), file)
        continue
      captions = list(entries[index].captions)
      yield {'image': image, 'captions': captions, 'key': file}

  def splits():
    heldout = list(itertools.islice(usable(by_hash), num_heldout))
    yield 'heldout', iter(heldout)
    rest = [index for index in range(len(entries)) if index not in done]
    yield 'train', usable(rest)

  with warnings.catch_warnings():
    # What Pillow thinks odd about a picture that it can decode.
    warnings.filterwarnings('ignore', module='PIL')
    # Pillow decodes outside Python's lock, so threads are enough.
    with concurrent.futures.ThreadPoolExecutor(_MAX_WORKERS) as pool:
      yield len(entries), splits()
