"""What an embedding depends on besides its caption: its encoder's identity.

A store has the identity of its embeddings in its manifest. A run writes that of
its store, or of its encoder online, into every checkpoint, and an export has
the one of its checkpoint. Two parts of it are fingerprints, of the weights' and
the vocabulary's contents: where these lie, and in which layout, is no part.
"""

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


# What the config does not state: two runs may differ in them alone.
_CONTENTS = ('checkpoint', 'vocabulary')
# Of an encoder that samples. In which type embeddings were computed (`dtype`)
# or kept (`stored_dtype`) is left out: sampling computes them anew, in the
# first stage's `dtype`, and keeps none; what is between them is rounding.
_SAMPLED = ('encoder', 'max_length', 'embed_dim', *_CONTENTS)


def changes(old: dict, new: dict) -> list[str]:
  """Returns 'FIELD: old -> new' where weights or vocabulary are others.

  What the configs state is for `config.differences` to compare.
  """
  return [
    f'text.{name} (fingerprint): {old.get(name)!r} -> {new.get(name)!r}'
    for name in _CONTENTS
    if old.get(name) != new.get(name)
  ]


def sampled(identity: dict) -> dict[str, str | int]:
  """Returns the part of an identity that encoders of one cascade share."""
  return {name: identity.get(name) for name in _SAMPLED}
