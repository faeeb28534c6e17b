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


def test_minilm_has_22_million_parameters():
  params = encoders.abstract_params(encoders.get('minilm_l6'))
  pooler = 384 * 384 + 384  # The published 22,713,216 count it.
  assert count(params) + pooler == 22_713_216


def test_an_unknown_name_is_refused_with_the_nearest():
  with pytest.raises(
    ValueError, match="text.encoder is 't5_11_xxl'; did you mean 't5_1_1_xxl'"
  ):
    encoders.get('t5_11_xxl')
