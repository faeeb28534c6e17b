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


@struct.dataclass
class Cond:
  """What a network is conditioned on, besides the noise level.

  Attributes:
    text: captions.
    lowres: corrupted low-res pictures at the stage's size, [B, H, W, 3].
    aug_logsnr: log-SNR of their corruption, [B].
  """

  text: TextCond
  lowres: jax.Array | None = None
  aug_logsnr: jax.Array | None = None
