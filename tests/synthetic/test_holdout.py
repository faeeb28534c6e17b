import pytest

from imagen_jax.synthetic import holdout


def test_share_is_the_same_for_ever():
  # Written down from the first release: a change would leak held-out
  # combinations into the training of models that were trained before.
  assert holdout.share('shapes', 'red', 'circle') == pytest.approx(
    0.49649, abs=1e-5
  )


def test_share_keeps_parts_apart():
  assert holdout.share('ab', 'c') != holdout.share('a', 'bc')


def test_share_is_uniform():
  shares = [holdout.share(str(i)) for i in range(4000)]
  assert min(shares) >= 0 and max(shares) < 1
  assert sum(s < 0.15 for s in shares) / 4000 == pytest.approx(0.15, abs=0.02)


def draw(n, seed=0):
  by_kind = {'few': list(range(5)), 'many': list(range(100, 200))}
  return holdout.draw_distinct(by_kind, {'few': 0.4, 'many': 0.6}, n, seed)


def test_draws_are_distinct_and_mixed_by_share():
  chosen = draw(10)
  assert len(set(chosen)) == 10
  assert sum(item < 100 for item in chosen) == 4


def test_kinds_that_have_more_make_up_for_the_others():
  chosen = draw(50)
  assert len(set(chosen)) == 50
  assert sum(item < 100 for item in chosen) == 5


def test_all_can_be_drawn():
  assert len(set(draw(105))) == 105


def test_seed_decides():
  assert draw(20, seed=1) == draw(20, seed=1) != draw(20, seed=2)


@pytest.mark.parametrize('n', [-1, 106])
def test_more_than_there_are_is_refused(n):
  with pytest.raises(ValueError, match=f'n is {n}; accepted: 0 to 105'):
    draw(n)
