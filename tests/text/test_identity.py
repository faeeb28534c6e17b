"""What tells one encoder from another, wherever it lies."""

import shutil

import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import storage
from imagen_jax.text import encoders
from imagen_jax.text import identity
from imagen_jax.text import layouts
from imagen_jax.text import restore
from imagen_jax.text import stored as stored_lib
from imagen_jax.text import tokenizer as tokenizer_lib


class Words(tokenizer_lib.Tokenizer):
  """The fingerprint of any file."""

  def _encode(self, captions, max_length):
    raise NotImplementedError


@pytest.fixture
def folder(golden_folder, monkeypatch, tmp_path):
  """A T5 1.1 with a vocabulary beside it; reads gs://bucket as this folder."""
  monkeypatch.setitem(
    encoders.TABLE,
    'tiny',
    encoders.Encoder('t5', 32, 2, 4, 8, 64, vocab_size=128, num_pieces=100),
  )
  shutil.copytree(golden_folder / 't5_1_1', tmp_path / 'model')
  (tmp_path / 'model' / 'sentencepiece.model').write_bytes(b'pieces')
  monkeypatch.setattr(
    tokenizer_lib,
    'SentencePieceTokenizer',
    lambda contents, path: Words(contents, 100),
  )
  kvstore, asked = storage.kvstore, []

  def local(path, *, folder):
    asked.append(path)
    place = path.replace('gs://bucket', str(tmp_path))
    return kvstore(place, folder=folder)

  monkeypatch.setattr(storage, 'kvstore', local)
  yield tmp_path
  assert any(path.startswith('gs://') for path in asked)


@pytest.mark.parametrize('inside', ['', '/checkpoint_1000'])
def test_a_bucket_and_its_copy_are_one(folder, inside):
  made = lambda place: identity.of(
    config_lib.TextConfig('tiny', f'{place}/model{inside}', embed_dim=32)
  )
  found = made('gs://bucket')
  assert found == made(folder)
  assert found['checkpoint'] == restore.fingerprint(str(folder / 'model'))
  (folder / 'model' / 'sentencepiece.model').write_bytes(b'other pieces')
  assert made('gs://bucket')['vocabulary'] != found['vocabulary']


def test_a_fingerprint_reads_little_of_a_large_checkpoint(monkeypatch):
  """All that a T5 XL has would be 5 GB."""
  read = []

  def large(name, shape):
    def take(index):
      read.append(name)
      start_stop = [part.indices(size) for part, size in zip(index, shape)]
      return np.zeros([b - a for a, b, _ in start_stop], np.float32)

    return stored_lib.Stored(shape, np.dtype(np.float32), shape, take)

  shapes = {'encoder/encoder_norm/scale': (2048,)}
  shapes['token_embedder/embedding'] = (32128, 2048)
  for i in range(24):
    shapes[f'encoder/layers_{i}/mlp/wi_0/kernel'] = (2048, 5120)
    shapes[f'encoder/layers_{i}/pre_mlp_layer_norm/scale'] = (2048,)
  arrays = {name: large(name, shape) for name, shape in shapes.items()}
  monkeypatch.setattr(layouts, 'open_checkpoint', lambda path: arrays)
  restore.fingerprint('any')
  kernels = [name for name in read if name.endswith('kernel')]
  assert kernels == ['encoder/layers_0/mlp/wi_0/kernel']
  assert len(read) == 1 + 24 + 1
  assert 'token_embedder/embedding' not in read


ONE = {
  'encoder': 'tiny',
  'max_length': 8,
  'embed_dim': 4,
  'dtype': 'float32',
  'stored_dtype': 'int8',
  'checkpoint': 'c',
  'vocabulary': 'v',
}


def test_changes_are_of_contents_alone():
  other = ONE | {'checkpoint': 'd', 'max_length': 9, 'stored_dtype': 'bfloat16'}
  assert identity.changes(ONE, other) == [
    "text.checkpoint (fingerprint): 'c' -> 'd'"
  ]
  assert identity.changes(ONE, dict(ONE)) == []
  assert len(identity.changes({}, ONE)) == 2


def test_sampling_does_not_mind_how_embeddings_were_kept():
  kept = {'dtype': 'bfloat16', 'stored_dtype': 'bfloat16'}
  assert identity.sampled(ONE | kept) == identity.sampled(ONE)
  for name in ('encoder', 'max_length', 'embed_dim', 'checkpoint'):
    assert identity.sampled(ONE | {name: 'x'}) != identity.sampled(ONE)
