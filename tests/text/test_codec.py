"""Records of the store: what goes in comes out, and how far int8 is off."""

import ml_dtypes
import numpy as np
import pytest

from imagen_jax.text import codec

KEY = b'0123456789abcde\0'


def embeddings():
  """Tokens [5, 64] with a few large channels, as T5's have."""
  embed = np.random.default_rng(0).normal(size=(5, 64))
  embed[:, 3] *= 20
  return embed.astype(np.float32)


def test_bfloat16_is_kept_bit_for_bit():
  embed = embeddings().astype(ml_dtypes.bfloat16)
  # NumPy strips a key's last zeros.
  record = codec.encode(KEY.rstrip(b'\0'), embed, 'bfloat16')
  assert len(record) == 16 + 5 * codec.token_bytes(64, 'bfloat16') == 16 + 640
  key, tokens = codec.decode(record, 64, 'bfloat16')
  assert key == KEY
  np.testing.assert_array_equal(tokens, embed)


def test_int8_is_off_by_half_a_step_at_most():
  embed = embeddings()
  record = codec.encode(KEY, embed, 'int8')
  assert len(record) == 16 + 5 * codec.token_bytes(64, 'int8') == 16 + 5 * 68
  key, tokens = codec.decode(record, 64, 'int8')
  assert (key, tokens.dtype) == (KEY, ml_dtypes.bfloat16)
  step = np.abs(embed).max(-1, keepdims=True) / 127
  off = np.abs(tokens.astype(np.float32) - embed)
  # And bfloat16's own rounding, eight bits.
  assert (off <= step / 2 + np.abs(embed) * 2**-8).all()
  assert off.max() > step.min() / 4


def test_a_token_of_zeros_stays_one():
  embed = embeddings()
  embed[2] = 0
  tokens = codec.stored(embed, 'int8')
  assert not tokens[2].any()
  assert tokens[[0, 1, 3, 4]].any(-1).all()


@pytest.mark.parametrize('stored_dtype', ['bfloat16', 'int8'])
def test_a_part_of_a_record_is_refused(stored_dtype):
  record = codec.encode(KEY, embeddings(), stored_dtype)
  for part in (record[:-1], record[:10]):
    with pytest.raises(ValueError, match='a record of part of an embedding'):
      codec.decode(part, 64, stored_dtype)
