"""The external sort of captions, and the memory that it takes."""

import tracemalloc

import numpy as np

from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import spool as spool_lib


class Words:
  def ragged(self, captions, max_length):
    tokens = [caption.split()[:max_length] for caption in captions]
    return tokens, 0


# 210 distinct ones, each in several runs.
CAPTIONS = [f'{"word " * (i % 7)}{i % 210}' for i in range(1000)]
EVERY = lambda keys: np.ones(len(keys), bool)


def scanned(folder, sources, run_records=64, lacking=EVERY, host=(0, 1)):
  spool = spool_lib.Spool(str(folder), sources, run_records)
  seen = []
  spool.scan(host, Words(), 5, lacking, seen.append)
  return spool, seen


def test_a_host_knows_how_much_its_share_is(tmp_path):
  sources = [spool_lib.Listed(CAPTIONS[:300]), spool_lib.Listed(CAPTIONS[300:])]
  shares = []
  for host in range(3):
    folder = tmp_path / str(host)
    spool, seen = scanned(folder, sources, host=(host, 3))
    assert spool.num_records((host, 3)) == sum(seen)
    shares.append(sum(seen))
  assert sum(shares) == 1000 and len(set(shares)) > 1


def test_shards_have_the_distinct_captions_by_key(tmp_path):
  sources = [spool_lib.Listed(CAPTIONS[:300]), spool_lib.Listed(CAPTIONS[300:])]
  spool, seen = scanned(tmp_path, sources)
  assert spool.num_runs == len(seen) == 5 + 11
  assert sum(seen) == 1000
  found = []
  for start, stop in ((0, 1), (1, 2), (2, 6), (6, 7)):
    keys, captions = spool.read(start, stop, 7)
    np.testing.assert_array_equal(keys, manifest_lib.keys_of(captions))
    shards = manifest_lib.shards_of(keys, 7)
    assert start <= shards.min() and shards.max() < stop
    found += captions
  assert len(found) == len(set(CAPTIONS)) == 210
  assert set(found) == set(CAPTIONS)
  keys = manifest_lib.keys_of(found)
  assert (keys[1:] > keys[:-1]).all()


def test_counts_are_sums_over_runs(tmp_path):
  spool, _ = scanned(tmp_path, [spool_lib.Listed(['a b', ' ', 'a b', 'c'])], 2)
  counts = spool.counts()
  assert (counts['mentions'], counts['empty']) == (4, 1)
  # 'a b' stands in two runs, and is counted in both.
  assert counts['tokens'].tolist() == [0, 1, 2, 0, 0, 0]


def test_captions_that_are_not_lacking_are_left_out(tmp_path):
  known = np.sort(manifest_lib.keys_of(CAPTIONS[:50]))
  lacking = lambda keys: ~np.isin(keys, known)
  spool, _ = scanned(tmp_path, [spool_lib.Listed(CAPTIONS)], lacking=lacking)
  _, captions = spool.read(0, 1, 1)
  assert set(captions) == set(CAPTIONS) - set(CAPTIONS[:50])


def test_hosts_share_the_runs_and_finished_ones_are_kept(tmp_path):
  class Counted(spool_lib.Listed):
    reads = []

    def read(self, indices):
      self.reads.append((indices[0], indices[-1] + 1))
      return super().read(indices)

  source = Counted(CAPTIONS)
  spool, _ = scanned(tmp_path, [source], 400, host=(1, 2))
  assert spool.missing() == [0, 2]
  assert source.reads == [(400, 800)]
  spool, _ = scanned(tmp_path, [source], 400, host=(0, 1))
  assert not spool.missing()
  assert source.reads == [(400, 800), (0, 400), (800, 1000)]


class Endless:
  """Long captions, none of them held; every second is a repetition."""

  name = fingerprint = 'endless'

  def __len__(self):
    return 20_000

  def read(self, indices):
    for i in indices:
      yield f'{i // 2} ' * 200


def test_memory_is_that_of_a_run_and_a_group_of_shards(tmp_path):
  """20,000 captions are 22 MB; a run of 500, or a fortieth, is 0.6 MB."""
  tracemalloc.start()
  try:
    spool, _ = scanned(tmp_path, [Endless()], 500)
    num = sum(len(spool.read(i, i + 1, 40)[1]) for i in range(40))
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert num == 10_000
  assert peak < 4e6
