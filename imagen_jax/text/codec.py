"""The bytes of one record of the store: a key and a caption's embeddings.

bfloat16: the key, then the embeddings [l, D]. int8: the key, a float32 scale
for each token [l], then the embeddings over their token's scale [l, D].
"""

import ml_dtypes
import numpy as np

from imagen_jax.text import manifest as manifest_lib

# What a lookup gives, whatever the store holds.
DTYPE = np.dtype(ml_dtypes.bfloat16)
_SCALE = np.dtype('<f4')
_LARGEST = 127  # Of int8, symmetric.


def token_bytes(embed_dim: int, stored_dtype: str) -> int:
  """Returns the bytes that a token takes in a record."""
  if stored_dtype == 'int8':
    return embed_dim + _SCALE.itemsize
  return embed_dim * DTYPE.itemsize


def encode(key: bytes, embed: np.ndarray, stored_dtype: str) -> bytes:
  """Returns the record of a caption.

  Args:
    key: the caption's; NumPy may have stripped zeros from its end.
    embed: embeddings, [l, D], finite.
    stored_dtype: 'bfloat16' or 'int8'.
  """
  key = key.ljust(manifest_lib.KEY_BYTES, b'\0')
  if stored_dtype == 'bfloat16':
    return key + embed.astype(DTYPE).tobytes()
  scale, quantised = _quantise(embed)
  return key + scale.tobytes() + quantised.tobytes()


def decode(
  record: bytes, embed_dim: int, stored_dtype: str
) -> tuple[bytes, np.ndarray]:
  """Returns a record's key and its embeddings, bfloat16 [l, D].

  Raises:
    ValueError: where the record's length is not that of whole tokens.
  """
  key = record[: manifest_lib.KEY_BYTES]
  width = token_bytes(embed_dim, stored_dtype)
  length, rest = divmod(len(record) - len(key), width)
  if rest or len(key) < manifest_lib.KEY_BYTES:
    raise ValueError('a record of part of an embedding')
  if stored_dtype == 'bfloat16':
    tokens = np.frombuffer(record, DTYPE, offset=len(key))
    return key, tokens.reshape(length, embed_dim)
  scale = np.frombuffer(record, _SCALE, length, len(key))
  start = len(key) + scale.nbytes
  quantised = np.frombuffer(record, np.int8, offset=start)
  quantised = quantised.reshape(length, embed_dim)
  return key, (quantised.astype(np.float32) * scale[:, None]).astype(DTYPE)


def stored(embed: np.ndarray, stored_dtype: str) -> np.ndarray:
  """Returns what a store would give for these embeddings, bfloat16 [l, D]."""
  key = b'\0' * manifest_lib.KEY_BYTES
  record = encode(key, embed, stored_dtype)
  return decode(record, embed.shape[-1], stored_dtype)[1]


def _quantise(embed):
  """Returns scales, float32 [l], and int8 [l, D]."""
  embed = embed.astype(np.float32)
  scale = (np.abs(embed).max(-1, initial=0) / _LARGEST).astype(_SCALE)
  # A token of zeros has no scale; its zeros need none.
  over = np.where(scale > 0, scale, 1)[:, None]
  return scale, np.rint(embed / over).astype(np.int8)
