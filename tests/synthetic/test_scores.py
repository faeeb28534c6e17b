"""Shares of what checkers found right."""

from imagen_jax.synthetic import scores


def test_shares_are_of_the_captions_that_state_a_key():
  found = scores.summarise(
    [
      {'colour': True, 'position': None, 'count': None},
      {'colour': True, 'position': False, 'count': None},
      {'colour': False, 'position': True, 'count': None},
      {'colour': True, 'position': True, 'count': None},
    ]
  )
  assert found == {
    'pictures': 4,
    'right': {'colour': 0.75, 'position': 2 / 3, 'all': 0.5},
    'stated': {'colour': 4, 'position': 3, 'all': 4},
  }
  assert scores.line('shapes', found) == (
    'shapes (4 pictures): colour 75.0%, position 66.7% of 3, all 50.0%'
  )
