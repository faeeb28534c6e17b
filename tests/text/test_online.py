"""Embeddings computed during training are those of a store, bit for bit."""

import types

from letters import Letters
import ml_dtypes
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.text import encoder as encoder_lib
from imagen_jax.text import identity
from imagen_jax.text import online as online_lib
from imagen_jax.text import spool as spool_lib
from imagen_jax.text import store as store_lib
from imagen_jax.text import tokenizer as tokenizer_lib
from imagen_jax.text import write_store

CAPTIONS = [f'{"a picture of"[: i % 12]} {i}' for i in range(90)]


@pytest.fixture(scope='module')
def make(golden_folder, golden, tmp_path_factory):
  """Makes (config, store's encoder, online encoder on eight devices)."""
  with pytest.MonkeyPatch.context() as patch:
    checkpoint, row, _ = golden('t5_1_1')
    patch.setitem(encoder_lib.encoders.TABLE, 'tiny_online', row)
    patch.setattr(tokenizer_lib, 'load', lambda text: Letters())
    text = config_lib.TextConfig(
      'tiny_online', checkpoint, max_length=16, embed_dim=32, rows=4
    )
    mesh = sharding.make_mesh(config_lib.MeshConfig(data=2, fsdp=4))
    ahead_of_time = encoder_lib.TextEncoder(text)
    during = encoder_lib.TextEncoder(text, mesh)

    def made(stored_dtype):
      values = {**vars(text), 'stored_dtype': stored_dtype}
      changed = config_lib.TextConfig(**values)
      path = str(tmp_path_factory.mktemp('store'))
      sources = [spool_lib.Listed(CAPTIONS)]
      said = identity.of(changed)
      write_store.write(path, sources, ahead_of_time, said, rows=text.rows)
      online = online_lib.Online(changed, mesh, during)
      return store_lib.EmbeddingStore(path), online

    yield made


@pytest.mark.parametrize('stored_dtype', ['bfloat16', 'int8'])
def test_online_is_the_store_bit_for_bit(make, stored_dtype):
  store, online = make(stored_dtype)
  # In another order, and with repetitions.
  captions = [*CAPTIONS[::-2], *CAPTIONS[:7]]
  embed, mask = online.lookup(captions)
  expected, expected_mask = store.lookup(captions, 16)
  assert embed.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(mask, expected_mask)
  np.testing.assert_array_equal(embed.view(np.uint16), expected.view(np.uint16))
  assert embed[mask].any(-1).all()


class Loader:
  """Batches of four captions, by step."""

  wait_seconds = 1.5
  tally = types.SimpleNamespace()

  def __init__(self, step=0):
    self.step = step

  def state(self, step=None):
    step = self.step if step is None else step
    return {'step': step, 'examples': 90}

  def __next__(self):
    first = self.step * 4 % 88
    self.step += 1
    captions = CAPTIONS[first : first + 4]
    return {'caption': captions, 'image': np.zeros((4, 8, 8, 3), np.float32)}


def test_batches_come_ahead_in_order_and_the_position_is_their_own(make):
  store, online = make('bfloat16')
  loader = Loader(step=3)
  ahead = online_lib.Ahead(loader, online)
  assert (ahead.wait_seconds, ahead.tally) == (1.5, Loader.tally)
  for step in range(3, 75):
    assert ahead.state() == {'step': step, 'examples': 90}
    batch = next(ahead)
    expected = next(Loader(step))
    assert batch['caption'] == expected['caption']
    embed, mask = store.lookup(batch['caption'], 16)
    np.testing.assert_array_equal(batch['text_mask'], mask)
    np.testing.assert_array_equal(
      batch['text_embed'].view(np.uint16), embed.view(np.uint16)
    )
  # 8 times 32 rows are 64 batches; two such windows are read.
  assert loader.step == 3 + 2 * 64 + 64


def test_few_large_pictures_are_read_ahead(make, monkeypatch):
  _, online = make('bfloat16')
  monkeypatch.setattr(online_lib, '_WINDOW_BYTES', 2 * 4 * 8 * 8 * 3 * 4)
  loader = Loader()
  next(online_lib.Ahead(loader, online))
  assert loader.step == 2 * 2
