"""What is left of each range without its duplicates, and counts of it all.

A summary is {part: counts}, of one range or of many: they are added up in any
order, and come out the same.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import copy
import hashlib
import json

import numpy as np

from imagen_jax.prepare import facts as facts_lib
from imagen_jax.prepare import folder
from imagen_jax.prepare import parts as parts_lib

# Copies that are left out: of the same pixels, or that look alike.
EXACT, NEAR = 1, 2
DROPPED = np.dtype([('index', '<u8'), ('kind', 'u1'), ('partner', '<u8')])

# Pixels of the shorter side, as the report counts them: from each on.
SIDE_EDGES = (1, 32, 64, 128, 256, 512, 1024, 2048, 4096)

# Pictures, and pairs of copies, that a task's sheets show.
_SHOWN = 32


def of_range(
  out: str, some: parts_lib.Range, copies: Iterable[tuple[int, int, int]]
) -> dict:
  """Returns the summary of a range; writes down which copies are left out.

  Args:
    out: the folder of the build.
    some: the range.
    copies: index, kind and partner's rank of each.
  """
  dropped = np.array(sorted(copies), DROPPED)
  folder.write(out, folder.DROPPED, some.name, dropped.tobytes())
  counts, facts = facts_lib.read(out, some.name)
  part = some.part.number
  left = ~np.isin(facts['index'], dropped['index'])
  lengths = np.diff(facts['stop'].astype(np.int64), prepend=0)[left]
  kept = facts[left]
  sides = np.searchsorted(SIDE_EDGES, kept['short'], side='right') - 1
  sizes, numbers = np.unique(kept['size'], return_counts=True)
  ranks = [parts_lib.rank(part, int(index)) for index in kept['index']]
  found = {
    'seen': counts.seen,
    'bad': counts.bad,
    'dropped': counts.dropped,
    'keys': counts.keys,
    'exact': int((dropped['kind'] == EXACT).sum()),
    'near': int((dropped['kind'] == NEAR).sum()),
    'kept': len(kept),
    'bytes': int(lengths.sum()),
    'sides': np.bincount(sides, minlength=len(SIDE_EDGES)).tolist(),
    'sizes': {str(size): int(n) for size, n in zip(sizes, numbers)},
    'captions': kept['captions'].sum(0, np.int64).tolist(),
    'ranges': [[some.start, len(kept), int(lengths.sum())]],
    'shown': _first([_lot(rank), rank] for rank in ranks),
    'pairs': _first(
      [_lot(rank), rank, int(one['partner']), int(one['kind'])]
      for one in dropped
      for rank in [parts_lib.rank(part, int(one['index']))]
    ),
  }
  return {str(part): found}


def add(one: dict, other: dict) -> dict:
  """Returns the sum of two summaries; `one` is changed into it."""
  for part, counts in other.items():
    if part not in one:
      one[part] = copy.deepcopy(counts)
      continue
    into = one[part]
    for name, value in counts.items():
      if isinstance(value, int):
        into[name] += value
      elif name in ('sides', 'captions'):
        into[name] = [a + b for a, b in zip(into[name], value)]
      elif name == 'ranges':
        into[name].extend(value)
      elif name in ('shown', 'pairs'):
        into[name] = _first([*into[name], *value])
      elif name == 'keys':
        for reason, keys in value.items():
          both = [*into[name].get(reason, []), *keys]
          into[name][reason] = sorted(both)[: facts_lib.KEYS]
      else:
        for reason, count in value.items():
          into[name][reason] = into[name].get(reason, 0) + count
  return one


def write(out: str, summary: dict):
  """Writes the summary of all ranges."""
  for counts in summary.values():
    counts['ranges'].sort()
  text = json.dumps(summary, sort_keys=True)
  folder.write(out, folder.SUMMARY, '', text.encode())


def read(out: str) -> dict | None:
  """Returns the summary of all ranges, or None where there is none yet."""
  try:
    return json.loads(folder.read(out, folder.SUMMARY))
  except FileNotFoundError:
    return None


def kept(out: str, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns the facts of a range, and which of them are of records that stay.

  The latter is bool [n].
  """
  _, facts = facts_lib.read(out, name)
  data = folder.read(out, folder.DROPPED, name)
  return facts, ~np.isin(facts['index'], np.frombuffer(data, DROPPED)['index'])


def _lot(rank):
  """A number drawn by a record, so that those shown are of everywhere."""
  digest = hashlib.blake2b(rank.to_bytes(8, 'big'), digest_size=6).digest()
  return int.from_bytes(digest, 'big')


def _first(drawn: Iterable[Sequence[int]]) -> list:
  return sorted(drawn)[:_SHOWN]
