"""What lookups have open, and in flight, at once."""

import collections
from concurrent import futures
import threading

import fake_store
import numpy as np
import pytest

from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import open_shards
from imagen_jax.text import store as store_lib

SHARD_BYTES = 600  # 27 shards.


class Meter:
  """Holds every call until enough are under way, or it is plain they are not.

  Attributes:
    most: of the calls that were under way at once.
    calls: how often each name was asked for.
  """

  def __init__(self, enough):
    self.most = 0
    self.calls = collections.Counter()
    self._enough = enough
    self._under_way = 0
    self._patience = 5  # Seconds, once.
    self._changed = threading.Condition()

  def wait(self, name):
    with self._changed:
      self.calls[name] += 1
      self._under_way += 1
      self.most = max(self.most, self._under_way)
      self._changed.notify_all()
      reached = lambda: self.most >= self._enough
      if not self._changed.wait_for(reached, self._patience):
        self._patience = 0
    # What is held when enough are there takes its while, as in a bucket.
    threading.Event().wait(0.01)
    with self._changed:
      self._under_way -= 1


@pytest.fixture
def metered(monkeypatch):
  """Makes two meters: of openings of indices, and of reads of records."""

  def install(enough):
    opened, read = Meter(enough), Meter(enough)
    load_keys = open_shards.load_keys
    reader = open_shards.array_record_module.ArrayRecordReader

    def slow_keys(name, in_memory):
      opened.wait(name)
      return load_keys(name, in_memory)

    class Slow:
      def __init__(self, path, **options):
        self._path = path
        self._reader = reader(path, **options)
        self.num_records = self._reader.num_records

      def read(self, rows):
        read.wait(self._path)
        return self._reader.read(rows)

      def read_all(self):
        read.wait(self._path)
        return self._reader.read_all()

    monkeypatch.setattr(open_shards, 'load_keys', slow_keys)
    monkeypatch.setattr(
      open_shards.array_record_module, 'ArrayRecordReader', Slow
    )
    return opened, read

  return install


def check(embed, mask, captions):
  for caption, tokens, real in zip(captions, embed, mask, strict=True):
    np.testing.assert_array_equal(tokens[real], fake_store.embed_of(caption))


@pytest.mark.parametrize('memory_bytes', [0, 2**20])
def test_a_bucket_is_asked_for_many_shards_at_once(
  folder_bucket, metered, monkeypatch, memory_bytes
):
  fake_store.write(folder_bucket / 's', shard_bytes=SHARD_BYTES)
  monkeypatch.setattr(store_lib, '_READS', 9)
  opened, read = metered(enough=9)
  store = store_lib.EmbeddingStore('gs://bucket/s', memory_bytes=memory_bytes)
  captions = fake_store.CAPTIONS[::2]
  check(*store.lookup(captions, 8), captions)
  # As many as there are threads, and never more.
  assert (opened.most, read.most) == (9, 9)
  assert set(opened.calls.values()) == {1}
  if memory_bytes:
    assert set(read.calls.values()) == {1}


def test_the_records_of_one_shard_are_shared_out(
  folder_bucket, metered, monkeypatch
):
  fake_store.write(folder_bucket / 's')
  monkeypatch.setattr(store_lib, '_READS', 8)
  opened, read = metered(enough=1)
  store = store_lib.EmbeddingStore('gs://bucket/s', memory_bytes=0)
  check(*store.lookup(fake_store.CAPTIONS, 8), fake_store.CAPTIONS)
  assert list(opened.calls.values()) == [1]  # The others waited for it.
  assert list(read.calls.values()) == [8]


def test_rows_of_one_shard_of_a_disk_are_read_together(tmp_path, metered):
  num = len(
    fake_store.write(tmp_path, shard_bytes=SHARD_BYTES)['parts'][0]['shards']
  )
  opened, read = metered(enough=1)
  store = store_lib.EmbeddingStore(tmp_path, memory_bytes=0)
  check(*store.lookup(fake_store.CAPTIONS, 8), fake_store.CAPTIONS)
  assert sorted(read.calls.values()) == [1] * num
  assert read.most == 1


def test_one_who_opens_holds_up_no_other(tmp_path, metered):
  """Threads that look up in different shards of a disk, as loaders may."""
  fake_store.write(tmp_path, shard_bytes=SHARD_BYTES)
  keys = manifest_lib.keys_of(fake_store.CAPTIONS)
  shards = manifest_lib.shards_of(keys, 27)
  first, second = (
    fake_store.CAPTIONS[np.flatnonzero(shards == n)[0]] for n in (0, 1)
  )
  opened, _ = metered(enough=2)
  store = store_lib.EmbeddingStore(tmp_path, memory_bytes=0)
  with futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda c: store.lookup([c], 8), (first, second)))
  assert opened.most == 2


@pytest.mark.parametrize('limit', [3, 26])
def test_so_many_shards_are_open_and_no_more(
  tmp_path, metered, monkeypatch, limit
):
  fake_store.write(tmp_path, shard_bytes=SHARD_BYTES)
  monkeypatch.setattr(open_shards, '_OPEN_SHARDS', limit)
  opened, _ = metered(enough=1)
  store = store_lib.EmbeddingStore(tmp_path, memory_bytes=0)
  for _ in range(2):
    check(*store.lookup(fake_store.CAPTIONS, 8), fake_store.CAPTIONS)
  # In their order, one more than may be open: each was closed when its turn
  # came again.
  assert set(opened.calls.values()) == {2}
  assert len(store._shards._shards) == limit
  # The last ones used are open still.
  last = max(opened.calls)
  store._shards.get(last.removesuffix('.npy'))
  assert opened.calls[last] == 2


def test_a_store_in_memory_keeps_all_shards(tmp_path, metered, monkeypatch):
  fake_store.write(tmp_path, shard_bytes=SHARD_BYTES)
  monkeypatch.setattr(open_shards, '_OPEN_SHARDS', 3)
  opened, read = metered(enough=1)
  store = store_lib.EmbeddingStore(tmp_path)
  for _ in range(2):
    check(*store.lookup(fake_store.CAPTIONS, 8), fake_store.CAPTIONS)
  assert set(opened.calls.values()) == set(read.calls.values()) == {1}


def test_what_could_not_be_opened_is_tried_again(folder_bucket):
  fake_store.write(folder_bucket / 's', shard_bytes=SHARD_BYTES)
  index = sorted(folder_bucket.glob('s/part-000/*.npy'))[4]
  away = index.with_suffix('.away')
  index.rename(away)
  store = store_lib.EmbeddingStore('gs://bucket/s', memory_bytes=0)
  with pytest.raises(ValueError, match='shard-000004-of-000027 is missing'):
    store.lookup(fake_store.CAPTIONS, 8)
  away.rename(index)
  check(*store.lookup(fake_store.CAPTIONS, 8), fake_store.CAPTIONS)


@pytest.mark.parametrize('shard_bytes', [2**30, SHARD_BYTES])
def test_many_readers_of_a_bucket_do_not_mix_records(bucket, shard_bytes):
  """With ArrayRecord's own reader of gs://, from all threads at once."""
  fake_store.write(f'gs://{bucket}/s', shard_bytes=shard_bytes)
  store = store_lib.EmbeddingStore(f'gs://{bucket}/s', memory_bytes=0)
  for captions in (fake_store.CAPTIONS, fake_store.CAPTIONS[::-3]):
    check(*store.lookup(captions, 8), captions)
