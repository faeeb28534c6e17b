"""Captions on their way into a store: an external sort by key.

More captions than memory holds are read in runs of a fixed number of records.
A run is written as its distinct captions in order of their keys, beside the
store: three files and a note, which comes last. What falls into a shard is then
a slice of every run. Which records a run has does not depend on the number of
hosts, and a finished run is not read again, whoever stopped.

A host's memory holds one run while it scans, and later the captions of one
group of shards.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import os
import typing

import numpy as np

from imagen_jax.text import files
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import output

# Records of a run: about 200 MB of captions. 860 million are 820 runs.
RUN_RECORDS = 2**20
# Captions tokenised at once.
_CHUNK = 4096
# A run's note says where each of so many equal ranges of keys begins, so that
# a group of shards is read out of it without a search.
_SLICES = 2**10
_NOTES = 256  # Notes that are read at once.
_END = np.dtype('<i8')


class Source(typing.Protocol):
  """Captions by record, such as those of a split of a dataset."""

  name: str
  fingerprint: str

  def __len__(self) -> int:
    """The number of records."""

  def read(self, indices: Sequence[int]) -> Iterator[str]:
    """Yields the captions of records, in their order.

    All are asked for in one call, so that a source that is far away can read
    many at once.
    """


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

  def read(self, indices: Sequence[int]) -> Iterator[str]:
    """Yields captions, in the order of their numbers."""
    for index in indices:
      yield self._captions[index]


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
    self._starts = None

  def num_records(self, host: tuple[int, int]) -> int:
    """Returns the records of this host's share of the runs."""
    share = self._plan[host[0] :: host[1]]
    return sum(stop - start for _, start, stop in share)

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
    names = set(files.names(self.folder, 'run-', output.FIELD))
    for number in range(host[0], self.num_runs, host[1]):
      source, start, stop = self._plan[number]
      if f'{os.path.basename(self._base(number))}.json' not in names:
        captions = source.read(range(start, stop))
        self._write(number, captions, tokenizer, max_length, lacking)
      report(stop - start)

  def _base(self, number):
    return f'{self.folder}/run-{number:06d}'

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

    texts = [caption.encode() for caption in captions]
    ends = np.cumsum([0, *map(len, texts)]).astype(_END)
    base = self._base(number)
    output.write(f'{base}.keys', keys[order].tobytes())
    output.write(f'{base}.ends', ends.tobytes())
    output.write(f'{base}.text', b''.join(texts))
    slices = manifest_lib.shards_of(keys[order], _SLICES)
    note = {
      **counts,
      'tokens': histogram.tolist(),
      'starts': np.searchsorted(slices, np.arange(_SLICES + 1)).tolist(),
    }
    output.write_json(f'{base}.json', note)

  def missing(self) -> list[int]:
    """Returns the runs, of all hosts, that are not there yet."""
    names = set(files.names(self.folder, 'run-', output.FIELD))
    return [
      number
      for number in range(self.num_runs)
      if f'{os.path.basename(self._base(number))}.json' not in names
    ]

  def counts(self) -> dict:
    """Returns sums over the runs: mentions, empty, and tokens.

    `tokens` counts captions by length, [max_length + 1]; a caption counts in
    each run that has it.
    """
    total = {'mentions': 0, 'empty': 0, 'tokens': 0}
    self._starts = []
    for first in range(0, self.num_runs, _NOTES):
      numbers = range(first, min(first + _NOTES, self.num_runs))
      for note in output.read_json([f'{self._base(n)}.json' for n in numbers]):
        self._starts.append(np.array(note['starts'], np.uint32))
        total['tokens'] += np.array(note['tokens'])
        total['mentions'] += note['mentions']
        total['empty'] += note['empty']
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
    if self._starts is None:
      self.counts()
    # Of each run, the slices that these shards lie in, and what is theirs.
    low = first * _SLICES // num_shards
    high = -(-last * _SLICES // num_shards)
    rows = [(int(s[low]), int(s[high])) for s in self._starts]
    kept = [n for n, (start, stop) in enumerate(rows) if start < stop]
    width = manifest_lib.KEY_BYTES
    all_keys = self._spans(
      (n, 'keys', rows[n][0] * width, rows[n][1] * width) for n in kept
    )
    all_ends = self._spans(
      (n, 'ends', rows[n][0] * 8, rows[n][1] * 8 + 8) for n in kept
    )
    keys, ends, texts = [], [], []
    for run_keys, run_ends in zip(all_keys, all_ends):
      run_keys = np.frombuffer(run_keys, manifest_lib.KEY)
      shards = manifest_lib.shards_of(run_keys, num_shards)
      start, stop = np.searchsorted(shards, (first, last))
      keys.append(run_keys[start:stop])
      ends.append(np.frombuffer(run_ends, _END)[start : stop + 1])
    found = self._spans(
      (n, 'text', int(e[0]), int(e[-1])) for n, e in zip(kept, ends)
    )
    for joined, run_ends in zip(found, ends):
      places = (run_ends - run_ends[0]).tolist()
      texts += [joined[a:b] for a, b in zip(places[:-1], places[1:])]
    if not texts:
      return np.empty(0, manifest_lib.KEY), []
    keys, places = np.unique(np.concatenate(keys), return_index=True)
    return keys, [texts[place].decode() for place in places]

  def _spans(self, spans):
    """Returns parts of runs' files, (number, suffix, start, stop)."""
    spans = [
      (f'{self._base(number)}.{suffix}', start, stop)
      for number, suffix, start, stop in spans
    ]
    real = [span for span in spans if span[1] < span[2]]
    found = dict(zip(real, files.read_spans(real, output.FIELD)))
    lost = [span[0] for span in real if found[span] is None]
    if lost:
      raise ValueError(
        f'{lost[0]} has gone while it was in use; run imagen-jax encode again'
      )
    return [found.get(span, b'') for span in spans]
