"""How large a store is, before it is written.

`benchmarks/store_size.py` prints a table of it.
"""

import dataclasses

from imagen_jax.text import codec
from imagen_jax.text import manifest as manifest_lib

# Beside its embeddings a record has its key, which stands in the index too, and
# what ArrayRecord adds to it: 94 to 114 bytes, measured on 2,000 records of 100
# to 8,000 bytes.
RECORD_BYTES = 2 * manifest_lib.KEY_BYTES + 100


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Bytes of the embeddings of one set of captions, kept in four ways.

  Attributes:
    padded: bfloat16, every caption padded to the maximum length.
    ragged: bfloat16, real tokens only, with keys and index.
    deduplicated: that, every distinct caption once: `stored_dtype` bfloat16.
    int8: that, with a byte for a number: `stored_dtype` int8.
  """

  padded: float
  ragged: float
  deduplicated: float
  int8: float


def sizes(
  num_captions: int,
  *,
  tokens: float,
  distinct: float,
  embed_dim: int,
  max_length: int,
) -> Sizes:
  """Returns how large the embeddings of so many captions are.

  Args:
    num_captions: with repetitions.
    tokens: of a caption, after cutting, on average; of distinct and other ones
      alike.
    distinct: share of the captions that is left without repetitions.
    embed_dim: width of an embedding.
    max_length: tokens that captions are cut to.
  """

  def stored(captions, stored_dtype):
    width = codec.token_bytes(embed_dim, stored_dtype)
    return captions * (tokens * width + RECORD_BYTES)

  wide = codec.token_bytes(embed_dim, 'bfloat16')
  return Sizes(
    padded=num_captions * max_length * wide,
    ragged=stored(num_captions, 'bfloat16'),
    deduplicated=stored(num_captions * distinct, 'bfloat16'),
    int8=stored(num_captions * distinct, 'int8'),
  )
