"""What an embedding depends on besides its caption."""

from imagen_jax import config as config_lib
from imagen_jax.text import encoders
from imagen_jax.text import restore
from imagen_jax.text import tokenizer as tokenizer_lib


def declared(text: config_lib.TextConfig) -> dict[str, str | int]:
  """Returns the part of the identity that a config states by itself."""
  return {
    'encoder': text.encoder,
    'max_length': text.max_length,
    'embed_dim': text.embed_dim,
    'dtype': text.dtype,
    'stored_dtype': text.stored_dtype,
  }


def of(text: config_lib.TextConfig) -> dict[str, str | int]:
  """Returns the identity of a config's embeddings, for manifests.

  Two configs with equal identities give equal embeddings. Besides what the
  config states it has fingerprints of checkpoint and vocabulary, which are
  read, though not restored: a small part of the checkpoint, and no device.

  Raises:
    ValueError: where one of them is not found or cannot be read.
  """
  checkpoint = text.checkpoint or encoders.get(text.encoder).checkpoint
  return declared(text) | {
    'checkpoint': restore.fingerprint(checkpoint),
    'vocabulary': tokenizer_lib.load(text).fingerprint,
  }
