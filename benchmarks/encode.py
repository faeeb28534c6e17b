"""Captions a second of a whole `encode` job, with and without length sorting.

    python benchmarks/encode.py
    python benchmarks/encode.py --encoder t5_1_1_base --captions 256

Captions have the lengths of web captions: a log-normal number of words with
the mean, 20.2, and deviation, 16.3, of Conceptual 12M (Changpinyo et al. 2021,
arXiv:2102.08981, table 1), a token a word and one that ends the text. Every
twentieth is a repetition. Weights are random, which costs the same.

Timed is all that `imagen-jax encode` does after it has restored the weights:
scanning, tokenising, sorting, computing, writing, hashing. Compiling is not: it
is done before, once a length. The two ways take turns, and the fastest of
`--repeats` turns counts.
"""

import argparse
import os
import tempfile

from flax.core import meta
import jax
import numpy as np

from imagen_jax.text import encoders
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import shapes as shapes_lib
from imagen_jax.text import spool as spool_lib
from imagen_jax.text import tokenizer as tokenizer_lib
from imagen_jax.text import write_store

MEAN_WORDS, STD_WORDS = 20.2, 16.3
REPEATED = 20


class Words(tokenizer_lib.Tokenizer):
  """A token a word."""

  num_special = 1

  def __init__(self):
    super().__init__(b'words', 1000)

  def _encode(self, captions, max_length):
    tokens = [[2 + len(word) for word in c.split()] for c in captions]
    cut = [len(ids) >= max_length for ids in tokens]
    return [ids[: max_length - 1] + [1] for ids in tokens], cut


class Encoder:
  """An encoder of the table with random weights, on the default device."""

  row_multiple = 1

  def __init__(self, name, dtype):
    entry = encoders.get(name)
    self.embed_dim = entry.embed_dim
    self.tokenizer = Words()
    module = encoders.build(entry, np.dtype(dtype))
    rng = np.random.default_rng(0)
    self._params = jax.tree.map(
      lambda x: (rng.standard_normal(x.shape, np.float32) * 0.02).astype(dtype),
      meta.unbox(encoders.abstract_params(entry)),
    )
    self._apply = jax.jit(
      lambda params, *tokens: module.apply({'params': params}, *tokens)
    )

  def encode_tokens(self, tokens, mask):
    """Returns embeddings [B, L, D] of tokens [B, L]."""
    return self._apply(self._params, tokens, mask)


def make_captions(num: int, seed: int = 0) -> list[str]:
  """Returns captions of web-like lengths; every twentieth comes again."""
  rng = np.random.default_rng(seed)
  spread = np.log1p((STD_WORDS / MEAN_WORDS) ** 2)
  counts = rng.lognormal(
    np.log(MEAN_WORDS) - spread / 2, np.sqrt(spread), num
  ).round()
  # Its first word makes a caption distinct.
  found = [
    ' '.join([f'w{i}', *['word'] * (int(count) - 1)])
    for i, count in enumerate(counts)
  ]
  return [
    found[i - i % REPEATED] if i % REPEATED == 1 else found[i]
    for i in range(num)
  ]


def encode(encoder, captions, shapes, args):
  """Writes a store; returns the last progress, all seconds, and the bytes."""
  seen = {}
  with tempfile.TemporaryDirectory() as folder:
    write_store.write(
      folder,
      [spool_lib.Listed(captions)],
      encoder,
      {
        'encoder': args.encoder,
        'max_length': args.max_length,
        'embed_dim': encoder.embed_dim,
        'stored_dtype': args.stored_dtype,
      },
      rows=args.rows,
      shapes=shapes,
      report=lambda progress: seen.update({progress.stage: progress}),
    )
    manifest = manifest_lib.read(folder)
    size = sum(
      os.path.getsize(os.path.join(root, name))
      for root, _, names in os.walk(folder)
      for name in names
    )
  seconds = seen['scan'].seconds + seen['encode'].seconds
  return seen['encode'], seconds, size, manifest


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--encoder', default='t5_1_1_small')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--captions', type=int, default=512)
  parser.add_argument('--max-length', type=int, default=128)
  parser.add_argument('--rows', type=int, default=16)
  parser.add_argument('--stored-dtype', default='bfloat16')
  parser.add_argument('--repeats', type=int, default=3)
  args = parser.parse_args()

  captions = make_captions(args.captions)
  encoder = Encoder(args.encoder, args.dtype)
  ways = {
    'sorted by length': shapes_lib.lengths(args.max_length),
    'padded to the longest': [args.max_length],
  }
  for length in ways['sorted by length']:
    tokens = np.ones((args.rows, length), np.int32)
    jax.block_until_ready(encoder.encode_tokens(tokens, tokens > 0))
  best = {}
  for _ in range(args.repeats):
    for name, shapes in ways.items():
      found = encode(encoder, captions, shapes, args)
      best[name] = min(best.get(name, found), found, key=lambda f: f[1])

  mean = (
    best['sorted by length'][0].tokens / best['sorted by length'][0].encoded
  )
  print(
    f'{args.encoder}, {args.dtype}, {args.captions} captions '
    f'({best["sorted by length"][0].encoded} distinct) of {mean:.1f} tokens, '
    f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores\n'
  )
  print('| | shapes | captions/s | tokens/s | real tokens | store |')
  print('| --- | --- | --- | --- | --- | --- |')
  for name, (progress, seconds, size, _) in best.items():
    print(
      f'| {name} | {len(ways[name])} | {args.captions / seconds:.1f} '
      f'| {progress.tokens / seconds:.0f} '
      f'| {progress.tokens / progress.computed:.0%} | {size / 1e6:.1f} MB |'
    )
  ratio = best['padded to the longest'][1] / best['sorted by length'][1]
  print(f'\nSorting is {ratio:.1f} times as fast.')


if __name__ == '__main__':
  main()
