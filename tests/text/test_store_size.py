"""The size that is foretold is the size that is written."""

import runpy

import numpy as np
import pytest

from imagen_jax.text import spool as spool_lib
from imagen_jax.text import store_size
from imagen_jax.text import write_store

CAPTIONS = [f'{"x" * (i % 17)}{i}' for i in range(700)]


class Encoder:
  row_multiple = 1

  @property
  def tokenizer(self):
    return self

  def ragged(self, captions, max_length):
    return [np.array([ord(c) for c in x]) for x in captions], 0

  def encode_tokens(self, tokens, mask):
    return np.repeat(tokens[..., None], 256, -1).astype(np.float32)


@pytest.mark.parametrize('stored_dtype', ['bfloat16', 'int8'])
def test_a_store_is_as_large_as_foretold(tmp_path, stored_dtype):
  repeated = [*CAPTIONS, *CAPTIONS[:300]]
  identity = {
    'encoder': 'fake',
    'max_length': 20,
    'embed_dim': 256,
    'stored_dtype': stored_dtype,
  }
  sources = [spool_lib.Listed(repeated)]
  write_store.write(str(tmp_path), sources, Encoder(), identity)
  size = sum(file.stat().st_size for file in tmp_path.glob('part-000/*'))
  found = store_size.sizes(
    1000,
    tokens=np.mean([len(caption) for caption in CAPTIONS]),
    distinct=0.7,
    embed_dim=256,
    max_length=20,
  )
  named = {'bfloat16': found.deduplicated, 'int8': found.int8}
  # An ArrayRecord ends with up to 64 KiB of its own.
  assert named[stored_dtype] * 0.98 < size < named[stored_dtype] * 1.02 + 2**17


def test_the_table_of_the_docs_is_what_the_command_prints(repo, capsys):
  runpy.run_path(str(repo / 'benchmarks' / 'store_size.py'))['main']([])
  said = capsys.readouterr().out
  assert said in (repo / 'docs' / 'text-store.md').read_text()
  # 860 million captions of 128 tokens, 4096 wide, of two bytes.
  assert f'| {860e6 * 128 * 4096 * 2 / 1e12:.0f} TB |' in said
