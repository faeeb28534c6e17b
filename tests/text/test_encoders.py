"""The table of encoders: its names, and its sizes to the last parameter."""

import math

from flax.core import meta
import jax
import pytest

from imagen_jax.text import encoders

# Parameters of embedding and encoder stack, as T5X's own models count them.
COUNTS = {
  't5_1_1_small': (16_449_536, 18_883_264),
  't5_1_1_base': (24_674_304, 84_954_240),
  't5_1_1_large': (32_899_072, 308_332_032),
  't5_1_1_xl': (65_798_144, 1_157_729_280),
  't5_1_1_xxl': (131_596_288, 4_630_714_368),
  't5_small': (16_449_536, 18_881_280),
  't5_base': (24_674_304, 84_954_240),
  't5_large': (32_899_072, 302_040_576),
  't5_3B': (32_899_072, 1_208_010_752),
  't5_11B': (32_899_072, 4_831_892_480),
  # Those below follow from the published sizes, added up apart from the code:
  # rows x width; layers x (4 x width x heads x head width + 3 x width x hidden
  # + 2 x width) + 32 x heads + width.
  'mt5_small': (128_057_344, 18_883_264),
  'mt5_base': (192_086_016, 84_954_240),
  'mt5_large': (256_114_688, 308_332_032),
  'mt5_xl': (512_229_376, 1_157_729_280),
  'mt5_xxl': (1_024_458_752, 4_630_714_368),
  'byt5_small': (565_248, 217_092_224),
  'byt5_base': (589_824, 414_113_664),
  'byt5_large': (589_824, 863_614_976),
  'byt5_xl': (983_040, 2_613_108_224),
  'byt5_xxl': (1_794_048, 8_988_523_584),
  'ul2': (131_596_288, 8_590_201_344),
  'flan_ul2': (131_596_288, 8_590_201_344),
  # With a bias table in every layer: 32 x heads x (layers - 1) more.
  'umt5_small': (131_268_608, 18_884_608),
  'umt5_base': (196_902_912, 84_958_464),
  'umt5_xl': (525_074_432, 1_157_752_832),
  'umt5_xxl': (1_050_148_864, 4_630_761_472),
}


def count(tree):
  leaves = jax.tree.leaves(meta.unbox(tree))
  return sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize('name', COUNTS)
def test_parameter_counts(name):
  params = encoders.abstract_params(encoders.get(name))
  assert (count(params['token_embedder']), count(params['encoder'])) == (
    COUNTS[name]
  )


@pytest.mark.parametrize('size', ['small', 'base', 'large', 'xl', 'xxl'])
@pytest.mark.parametrize('family', ['t5_1_1_lm100k', 'flan_t5'])
def test_descendants_have_the_sizes_of_1_1(family, size):
  row = encoders.get(f'{family}_{size}')
  assert encoders.build(row) == encoders.build(encoders.get(f't5_1_1_{size}'))
  assert f'/{family}_{size}/checkpoint_1' in row.checkpoint


def test_every_t5_has_the_activation_of_its_family():
  """Two gated ones have the same parameters: no checkpoint tells them apart."""
  first = {'small', 'base', 'large', '3B', '11B'}
  for name, row in encoders.TABLE.items():
    if row.family != 't5':
      continue
    expected = 'gated-gelu'
    if name in ('ul2', 'flan_ul2'):
      expected = 'gated-silu'
    elif name.removeprefix('t5_') in first:
      expected = 'relu'
    assert encoders.build(row).activation == row.activation == expected, name


def test_minilm_has_22_million_parameters():
  params = encoders.abstract_params(encoders.get('minilm_l6'))
  pooler = 384 * 384 + 384  # The published 22,713,216 count it.
  assert count(params) + pooler == 22_713_216


@pytest.mark.parametrize(
  ('name', 'published'),
  # As `transformers` counts BertModel, pooler included.
  [
    ('bert_base_uncased', 109_482_240),
    ('bert_base_cased', 108_310_272),
    ('bert_large_uncased', 335_141_888),
    ('bert_large_cased', 333_579_264),
  ],
)
def test_bert_has_its_published_parameters(name, published):
  row = encoders.get(name)
  pooler = row.embed_dim**2 + row.embed_dim
  assert count(encoders.abstract_params(row)) + pooler == published


def test_every_t5_of_the_table_is_counted():
  descendants = {
    f'{family}_{size}'
    for family in ('t5_1_1_lm100k', 'flan_t5')
    for size in ('small', 'base', 'large', 'xl', 'xxl')
  }
  rows = {name for name, row in encoders.TABLE.items() if row.family == 't5'}
  assert rows == set(COUNTS) | descendants


def test_every_t5_says_where_its_weights_lie():
  for name, row in encoders.TABLE.items():
    if row.family == 't5':
      assert row.checkpoint.startswith('gs://'), name
      assert 0 <= row.vocab_size - row.num_pieces - row.num_extra < 128, name


def test_an_unknown_name_is_refused_with_the_nearest():
  with pytest.raises(
    ValueError, match="text.encoder is 't5_11_xxl'; did you mean 't5_1_1_xxl'"
  ):
    encoders.get('t5_11_xxl')
