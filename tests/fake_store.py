"""Stores of small, known embeddings, as the tests of stores write them."""

from concurrent import futures
import pathlib
import threading

import ml_dtypes
import numpy as np

from imagen_jax.text import spool as spool_lib
from imagen_jax.text import write_store

DIM = 6
IDENTITY = {
  'encoder': 'fake',
  'max_length': 8,
  'embed_dim': DIM,
  'dtype': 'float32',
  'stored_dtype': 'bfloat16',
  'checkpoint': 'c',
  'vocabulary': 'v',
}


def tokens_of(caption):
  return np.array([ord(c) for c in caption[:8]], np.int32)


def embed_of(caption):
  return (tokens_of(caption)[:, None] * 2.0 ** -np.arange(DIM)).astype(
    ml_dtypes.bfloat16
  )


class FakeTokenizer:
  def ragged(self, captions, max_length):
    cut = sum(len(caption) > max_length for caption in captions)
    return [tokens_of(caption) for caption in captions], cut


class FakeEncoder:
  """Embeds a token as its code times powers of a half."""

  row_multiple = 1
  tokenizer = FakeTokenizer()

  def __init__(self, fail_after=None):
    self.shapes = []
    self.rows = 0
    self._fail_after = fail_after

  def encode_tokens(self, tokens, mask):
    if self._fail_after is not None and len(self.shapes) >= self._fail_after:
      raise KeyboardInterrupt
    self.shapes.append(tokens.shape)
    self.rows += int(mask.any(1).sum())
    return (tokens[..., None] * 2.0 ** -np.arange(DIM)).astype(np.float32)


CAPTIONS = [f'{"abcdefghij"[: 1 + i % 9]}{i}' for i in range(200)]


def write(path, captions=CAPTIONS, encoder=None, **options):
  return write_store.write(
    str(path),
    [spool_lib.Listed(captions)],
    encoder or FakeEncoder(),
    **{'identity': IDENTITY, 'shapes': [2, 4, 6, 8], **options},
  )


def contents(path):
  return {
    str(file.relative_to(path)): file.read_bytes()
    for file in pathlib.Path(path).glob('**/*')
    if file.is_file()
  }


def on_hosts(num, run):
  """Calls run(host, barrier) for each host, in threads."""
  barrier = threading.Barrier(num, timeout=60)
  with futures.ThreadPoolExecutor(num) as pool:
    started = [pool.submit(run, (i, num), barrier.wait) for i in range(num)]
    return [each.result() for each in started]


def kill(*_):
  raise KeyboardInterrupt
