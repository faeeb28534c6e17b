"""The captions of one shard, computed by length."""

from collections.abc import Iterator

import numpy as np

from imagen_jax.text import codec
from imagen_jax.text import shapes as shapes_lib
from imagen_jax.text import tokenizer as tokenizer_lib


class Batches:
  """The captions of one shard, in batches of one of a few shapes.

  Attributes:
    lengths: tokens of each, int [n].
    num_cut: how many were longer.
  """

  def __init__(self, encoder, captions: list[str], max_length: int, rows: int):
    """Counts tokens; nothing is computed.

    Args:
      encoder: as `write_store.write` takes it.
      captions: n of them.
      max_length: tokens that they are cut to.
      rows: computed at once by each device.
    """
    self._encoder = encoder
    self._rows = rows * encoder.row_multiple
    self._tokens, self.num_cut = encoder.tokenizer.ragged(captions, max_length)
    self.lengths = np.array([len(ids) for ids in self._tokens], int)

  def run(self, shapes: list[int]) -> Iterator:
    """Yields positions, embeddings [l, D] of each, tokens computed."""
    waiting = None
    for positions, length in shapes_lib.tiles(self.lengths, shapes, self._rows):
      batch = [self._tokens[i] for i in positions]
      padded = tokenizer_lib.pad(batch, self._rows, length)
      embed = self._encoder.encode_tokens(*padded)
      # The device works on this batch while the one before it is fetched.
      if waiting:
        yield self._fetch(*waiting)
      waiting = positions, embed
    if waiting:
      yield self._fetch(*waiting)

  def _fetch(self, positions, embed):
    embed = np.asarray(embed)
    real = [
      row[:length]
      for row, length in zip(embed, self.lengths[positions], strict=False)
    ]
    return positions, real, embed.shape[0] * embed.shape[1]


def record(
  key: bytes, embed: np.ndarray, caption: str, stored_dtype: str
) -> bytes:
  """Returns the bytes of one record (`codec.encode`).

  Raises:
    ValueError: where the embedding is not finite.
  """
  if not np.isfinite(embed.astype(np.float32)).all():
    raise ValueError(
      f'the embedding of {caption!r} is not finite; accepted: finite ones; '
      'text.checkpoint may be corrupt, or text.dtype too coarse for it'
    )
  return codec.encode(key, embed, stored_dtype)
