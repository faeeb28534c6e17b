"""Captions on their way into a store: an external sort by key.

More captions than memory holds are read in runs of a fixed number of records.
A run is written as its distinct captions in order of their keys, beside the
store. What falls into a shard is then a slice of every run. Which records a run
has does not depend on the number of hosts, and a finished run is not read
again, whoever stopped.

A host's memory holds one run while it scans, and later the captions of one
group of shards.
"""

from collections.abc import Callable
from collections.abc import Iterator
import os
import typing

import numpy as np

from imagen_jax.text import manifest as manifest_lib

# Records of a run: about 200 MB of captions. 860 million are 820 runs.
RUN_RECORDS = 2**20
# Captions tokenised at once.
_CHUNK = 4096


class Source(typing.Protocol):
  """Captions by record, such as those of a split of a dataset."""

  name: str
  fingerprint: str

  def __len__(self) -> int:
    """The number of records."""

  def read(self, start: int, stop: int) -> Iterator[str]:
    """Yields the captions of the records from `start` to before `stop`."""


class Listed:
  """Captions of a list, one a record."""

  name = 'list'

  def __init__(self, captions: list[str]):
    self._captions = captions
    joined = manifest_lib.keys_of(captions).tobytes()
    (key,) = manifest_lib.keys_of([joined.hex()])
    self.fingerprint = key.ljust(manifest_lib.KEY_BYTES, b'\0').hex()

  def __len__(self):
    return len(self._captions)

  def read(self, start: int, stop: int) -> Iterator[str]:
    """Yields captions `start` to `stop` - 1."""
    yield from self._captions[start:stop]


class Spool:
  """The runs of one scan, in a folder that all hosts see.

  Attributes:
    num_runs: how many there are when all hosts have scanned.
  """

  def __init__(self, folder: str, sources: list[Source], run_records: int):
    """Plans the runs; nothing is read.

    Args:
      folder: of this scan alone: its name tells what is scanned.
      sources: of the captions.
      run_records: records of a run, the last one of a source excepted.
    """
    self.folder = folder
    self._plan = [
      (source, start, min(start + run_records, len(source)))
      for source in sources
      for start in range(0, len(source), run_records)
    ]
    self.num_runs = len(self._plan)
    self._runs = None

  def scan(
    self,
    host: tuple[int, int],
    tokenizer,
    max_length: int,
    lacking: Callable[[np.ndarray], np.ndarray],
    report: Callable[[int], None],
  ) -> None:
    """Writes this host's share of the runs that are not there yet.

    Args:
      host: this host's number and the number of hosts.
      tokenizer: counts the tokens of captions.
      max_length: tokens that they are cut to.
      lacking: which of sorted keys are to be encoded, bool [n].
      report: is told the number of records of each run that is there.
    """
    os.makedirs(self.folder, exist_ok=True)
    for number in range(host[0], self.num_runs, host[1]):
      source, start, stop = self._plan[number]
      if not os.path.exists(f'{self._base(number)}.json'):
        captions = source.read(start, stop)
        self._write(number, captions, tokenizer, max_length, lacking)
      report(stop - start)

  def _base(self, number):
    return os.path.join(self.folder, f'run-{number:06d}')

  def _write(self, number, captions, tokenizer, max_length, lacking):
    found, counts = {}, {'mentions': 0, 'empty': 0}
    for caption in captions:
      counts['mentions'] += 1
      if caption.strip():
        found[caption] = None
      else:
        counts['empty'] += 1
    captions = list(found)
    keys = manifest_lib.keys_of(captions)
    order = np.argsort(keys)
    order = order[lacking(keys[order])]
    captions = [captions[i] for i in order]
    histogram = np.zeros(max_length + 1, np.int64)
    for first in range(0, len(captions), _CHUNK):
      tokens, _ = tokenizer.ragged(captions[first : first + _CHUNK], max_length)
      histogram += np.bincount(
        [len(t) for t in tokens], minlength=len(histogram)
      )

    base = self._base(number)
    texts = [caption.encode() for caption in captions]
    ends = np.cumsum([0, *map(len, texts)])
    for name, array in (
      ('keys', keys[order]),
      ('ends', ends),
      ('text', np.frombuffer(b''.join(texts), np.uint8)),
    ):
      with open(f'{base}.{name}.npy.tmp', 'wb') as file:
        np.save(file, array)
      manifest_lib.publish(f'{base}.{name}.npy')
    counts['tokens'] = histogram.tolist()
    manifest_lib.write_json(f'{base}.json', counts)

  def is_complete(self) -> bool:
    """Returns whether every host's runs are there."""
    names = set(os.listdir(self.folder))
    wanted = (os.path.basename(self._base(n)) for n in range(self.num_runs))
    return all(f'{name}.json' in names for name in wanted)

  def counts(self) -> dict:
    """Returns sums over the runs: mentions, empty, and tokens.

    `tokens` counts captions by length, [max_length + 1]; a caption counts in
    each run that has it.
    """
    total = {'mentions': 0, 'empty': 0, 'tokens': 0}
    for number in range(self.num_runs):
      counts = manifest_lib.read_json(f'{self._base(number)}.json')
      total['tokens'] += np.array(counts.pop('tokens'))
      for name, value in counts.items():
        total[name] += value
    return total

  def read(
    self, first: int, last: int, num_shards: int
  ) -> tuple[np.ndarray, list[str]]:
    """Returns the sorted keys, and captions, of shards `first` to `last` - 1.

    Args:
      first: a shard.
      last: the one after the last shard.
      num_shards: in all.
    """
    if self._runs is None:
      # Mapped, not read: a slice touches few of their pages.
      self._runs = [
        [
          np.load(f'{self._base(number)}.{name}.npy', mmap_mode='r')
          for name in ('keys', 'ends', 'text')
        ]
        for number in range(self.num_runs)
      ]
    # Of the keys' own type: another would have all of them read and cast.
    low, high = np.array(
      [manifest_lib.first_key(shard, num_shards) for shard in (first, last)],
      manifest_lib.KEY,
    )
    keys, texts = [], []
    for run_keys, ends, text in self._runs:
      start, stop = np.searchsorted(run_keys, low), len(run_keys)
      if last < num_shards:
        stop = np.searchsorted(run_keys, high)
      if start == stop:
        continue
      keys.append(np.array(run_keys[start:stop]))
      ends = np.array(ends[start : stop + 1])
      joined = text[ends[0] : ends[-1]].tobytes()
      ends -= ends[0]
      texts += [joined[a:b] for a, b in zip(ends[:-1], ends[1:])]
    if not keys:
      return np.empty(0, manifest_lib.KEY), []
    keys, places = np.unique(np.concatenate(keys), return_index=True)
    return keys, [texts[place].decode() for place in places]
