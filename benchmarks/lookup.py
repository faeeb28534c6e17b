"""Lookups a second of a store of embeddings, in batches of captions.

    python benchmarks/lookup.py
    python benchmarks/lookup.py --latency 0.05

writes a store of random embeddings, of 20 tokens a caption, into a temporary
folder, and looks up random batches of it: from memory, and from disk, as a
store is read that is larger than `memory_bytes`. With `--latency` the folder is
read as a bucket is (gs://...), and each opening and each record read waits for
so many seconds, as it would for a bucket. A batch is new each time, so that
shards are opened as they are in training. Every turn opens the store anew; the
fastest of `--repeats` turns counts.
"""

import argparse
import tempfile
import time

import numpy as np

from imagen_jax import storage
from imagen_jax.text import open_shards
from imagen_jax.text import spool as spool_lib
from imagen_jax.text import store as store_lib
from imagen_jax.text import write_store

TOKENS = 20
MAX_LENGTH = 32
ADDRESS = 'gs://store'


class Encoder:
  """Random embeddings; it is its own tokenizer."""

  row_multiple = 1

  def __init__(self, embed_dim):
    self.tokenizer = self
    self._embed_dim = embed_dim
    self._rng = np.random.default_rng(0)

  def ragged(self, captions, max_length):
    """Returns the tokens of captions, and that none were cut."""
    return [np.ones(TOKENS, np.int32) for _ in captions], 0

  def encode_tokens(self, tokens, mask):
    """Returns embeddings [B, L, D] of tokens [B, L]."""
    shape = (*tokens.shape, self._embed_dim)
    return self._rng.standard_normal(shape, np.float32)


def make_store(folder, captions, args):
  """Writes the store; returns the number of its shards."""
  identity = {
    'encoder': 'random',
    'max_length': MAX_LENGTH,
    'embed_dim': args.embed_dim,
    'stored_dtype': args.stored_dtype,
  }
  size = len(captions) * TOKENS * args.embed_dim * 2
  manifest = write_store.write(
    folder,
    [spool_lib.Listed(captions)],
    Encoder(args.embed_dim),
    identity,
    shard_bytes=-(-size // args.shards),
  )
  return len(manifest['parts'][0]['shards'])


def delay(folder, seconds):
  """Has `folder` stand behind ADDRESS, far away."""
  local = lambda path: path.replace(ADDRESS, folder)
  read = storage.read
  reader = open_shards.array_record_module.ArrayRecordReader

  def slow_read(path, field):
    time.sleep(seconds)
    return read(local(path), field)

  class Slow:
    def __init__(self, path, options):
      time.sleep(seconds)
      self._reader = reader(local(path), options=options)
      self.num_records = self._reader.num_records

    def read(self, rows):
      time.sleep(seconds * len(rows))  # ArrayRecord reads one by one.
      return self._reader.read(rows)

    def read_all(self):
      time.sleep(seconds * self.num_records())
      return self._reader.read_all()

  storage.read = slow_read
  open_shards.array_record_module.ArrayRecordReader = Slow


def measure(path, captions, args, memory_bytes):
  """Returns the captions a second of the fastest turn."""
  best = float('inf')
  for turn in range(args.repeats):
    store = store_lib.EmbeddingStore(path, memory_bytes=memory_bytes)
    rng = np.random.default_rng(turn)
    batches = [
      [captions[i] for i in rng.choice(len(captions), args.batch)]
      for _ in range(args.batches)
    ]
    if memory_bytes:
      store.lookup(captions, MAX_LENGTH)  # Each shard is read once.
    start = time.perf_counter()
    for batch in batches:
      store.lookup(batch, MAX_LENGTH)
    best = min(best, time.perf_counter() - start)
  return args.batches * args.batch / best


def main():
  """Prints what was measured."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--captions', type=int, default=8192)
  parser.add_argument('--embed-dim', type=int, default=1024)
  parser.add_argument('--stored-dtype', default='bfloat16')
  parser.add_argument('--shards', type=int, default=64)
  parser.add_argument('--batch', type=int, default=256)
  parser.add_argument('--batches', type=int, default=20)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--latency', type=float, default=0.0)
  args = parser.parse_args()

  captions = [f'caption {i}' for i in range(args.captions)]
  with tempfile.TemporaryDirectory() as folder:
    shards = make_store(folder, captions, args)
    print(
      f'{args.captions} captions of {TOKENS} tokens of {args.embed_dim}, '
      f'{args.stored_dtype}, in {shards} shards; batches of {args.batch}'
    )
    ways = {'from memory': 2**40, 'from disk': 0}
    if args.latency:
      delay(folder, args.latency)
      ways = {f'{args.latency * 1e3:.0f} ms away': 0}
    for name, memory_bytes in ways.items():
      path = ADDRESS if args.latency else folder
      rate = measure(path, captions, args, memory_bytes)
      print(f'{name}: {rate:.0f} lookups/s, {args.batch / rate * 1e3:.1f} ms')


if __name__ == '__main__':
  main()
