"""Pytrees that cross module borders.

Axis letters, everywhere: B batch, H W C image, L tokens, D text width,
E embedding width, N heads, K head width.
"""

from flax import struct
import jax


@struct.dataclass
class TextCond:
  """Encoded captions.

  Attributes:
    embed: token embeddings, [B, L, D]; zero where `mask` is False.
    mask: which tokens are real, [B, L] bool.
  """

  embed: jax.Array
  mask: jax.Array


@struct.dataclass
class Batch:
  """Examples of one step.

  Attributes:
    image: pictures in [-1, 1], [B, H, W, 3].
    text: their captions.
    lowres: antialiased downsample of `image`, [B, h, w, 3]; None for a base.
  """

  image: jax.Array
  text: TextCond
  lowres: jax.Array | None = None

  @classmethod
  def of(cls, rows: dict) -> 'Batch':
    """What a loader's dict has of it, as it is there."""
    return cls(
      image=rows['image'],
      text=TextCond(rows['text_embed'], rows['text_mask']),
      lowres=rows.get('lowres'),
    )


@struct.dataclass
class Edit:
  """A picture to start a sample from.

  Attributes:
    image: pictures in [-1, 1], [B, H, W, 3].
    mask: 1 where they are to be painted anew and 0 where they stay, [B, H, W,
      1]; None for everywhere.
  """

  image: jax.Array
  mask: jax.Array | None = None


@struct.dataclass
class Cond:
  """What a network is conditioned on, besides the noise level.

  Attributes:
    text: captions.
    lowres: corrupted low-res pictures at the stage's size, [B, H, W, 3].
    aug_logsnr: log-SNR of their corruption, [B].
    x_last: the network's own last estimate, [B, H, W, 3], zero where there is
      none; None without self-conditioning.
  """

  text: TextCond
  lowres: jax.Array | None = None
  aug_logsnr: jax.Array | None = None
  x_last: jax.Array | None = None
