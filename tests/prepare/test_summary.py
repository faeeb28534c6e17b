"""Counts that are added up in any order."""

import copy
import functools
import random

import numpy as np

from imagen_jax import config
from imagen_jax.prepare import facts as facts_lib
from imagen_jax.prepare import folder
from imagen_jax.prepare import parts as parts_lib
from imagen_jax.prepare import signature
from imagen_jax.prepare import summary


def fact(index, stop, short=100, size=64, captions=(1,) + (0,) * 7):
  tint = np.zeros(signature.TINT, np.uint8)
  return index, stop, b'x', 0, tint, short, size, captions


def scanned(out):
  """Three ranges of a part and one of another, scanned; their summaries."""
  task = config.TaskConfig('a', 'x')
  parts = [
    parts_lib.Part(0, task, 'train', 1, 0.0, 192),
    parts_lib.Part(1, task, 'heldout', 1, 0.0, 64),
  ]
  found = []
  for part, start in ((0, 0), (0, 64), (0, 128), (1, 0)):
    some = parts_lib.Range(parts[part], start)
    bad = {'cut': 3} if start else {'cut': 2, 'gone': 1}
    counts = facts_lib.Counts(
      64, bad, {'small': 61}, {why: [[start, f'k{start}']] for why in bad}
    )
    if start == 64:
      counts = facts_lib.Counts(64, {}, {}, {})
    rows = [
      fact(start + n, 10 * (n + 1), 30 + 50 * n, 64 * (1 + n % 2))
      for n in range(40)
    ]
    facts_lib.write(out, some.name, counts, rows if start == 64 else [])
    copies = [(70, summary.EXACT, 3), (65, summary.NEAR, 64)]
    found.append(summary.of_range(out, some, copies if start == 64 else []))
  return parts, found


def test_a_range_is_counted_without_its_copies(tmp_path):
  out = str(tmp_path)
  folder.clear(out, [])
  parts, found = scanned(out)
  one = found[1]['0']
  assert (one['seen'], one['kept'], one['bytes']) == (64, 38, 380)
  assert (one['exact'], one['near']) == (1, 1)
  assert one['ranges'] == [[64, 38, 380]]
  assert one['sizes'] == {'64': 19, '128': 19}  # 65 and 70 were of each.
  assert sum(one['sides']) == 38 and one['captions'][0] == 38
  assert {pair[1] for pair in one['pairs']} == {65, 70}
  facts, left = summary.kept(out, parts_lib.Range(parts[0], 64).name)
  assert list(facts['index'][~left]) == [65, 70]


def test_sums_are_the_same_in_any_order(tmp_path):
  out = str(tmp_path)
  folder.clear(out, [])
  _, found = scanned(out)
  sums = []
  for seed in range(5):
    parts = copy.deepcopy(found)
    random.Random(seed).shuffle(parts)
    left = functools.reduce(summary.add, parts[:2], {})
    right = functools.reduce(summary.add, parts[2:], {})
    summary.write(out, summary.add(left, right))
    sums.append(summary.read(out))
  assert all(one == sums[0] for one in sums)
  total = sums[0]['0']
  assert total['bad'] == {'cut': 5, 'gone': 1}
  assert total['keys']['cut'] == [[0, 'k0'], [128, 'k128']]
  assert [start for start, _, _ in total['ranges']] == [0, 64, 128]
  assert len(total['shown']) == 32


def test_a_sum_leaves_what_is_added_as_it_was(tmp_path):
  out = str(tmp_path)
  folder.clear(out, [])
  _, found = scanned(out)
  before = copy.deepcopy(found)
  total = {}
  for one in found:
    summary.add(total, one)
  assert found == before
