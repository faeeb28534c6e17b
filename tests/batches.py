"""Batches of a loader: taken, joined and compared."""

import numpy as np

from imagen_jax.data import loader as loader_lib


def take(config, count, *, rows=None, open_batches=None, **options):
  """Returns a loader's first batches."""
  open_batches = open_batches or loader_lib.training_batches
  rows = range(config.train.batch_size) if rows is None else rows
  options.setdefault('store', None)
  with open_batches(config, rows=rows, **options) as batches:
    return [next(batches) for _ in range(count)]


def assert_same(one, other):
  assert one.keys() == other.keys()
  for name, value in one.items():
    if isinstance(value, list):
      assert value == other[name]
    else:
      np.testing.assert_array_equal(value, other[name])


def join(parts):
  """Returns hosts' parts of a batch as one."""
  return {
    name: sum((part[name] for part in parts), [])
    if isinstance(value, list)
    else np.concatenate([part[name] for part in parts])
    for name, value in parts[0].items()
  }


class FakeStore:
  """Embeds a caption as its number of words and of letters."""

  def lookup(self, captions, max_length):
    embed = np.zeros((len(captions), max_length, 2), np.float32)
    embed[:, 0] = [(len(c.split()), len(c)) for c in captions]
    return embed, embed.any(-1)
