import itertools

import numpy as np
import pytest

from imagen_jax.synthetic import layout


@pytest.mark.parametrize('count', layout.PLACES)
@pytest.mark.parametrize('half', [0.05, 0.2, 0.23])
def test_boxes_keep_apart_and_inside(count, half):
  rng = np.random.default_rng(0)
  for _ in range(200):
    centres = layout.wander(
      rng, layout.PLACES[count], [half] * count, most=0.3, margin=0.02
    )
    for x, y in centres:
      assert min(x, y, 1 - x, 1 - y) >= half + 0.02 - 1e-9
    for (x, y), (u, v) in itertools.combinations(centres, 2):
      assert max(abs(x - u), abs(y - v)) >= 2 * half + 0.04 - 1e-9


def test_centres_wander_so_far_and_no_further():
  rng = np.random.default_rng(0)
  place = ((0.4, 0.5),)
  found = np.array(
    [
      layout.wander(rng, place, [0.1], most=0.05, margin=0.02)[0]
      for _ in range(2000)
    ]
  )
  assert np.abs(found - place).max() <= 0.05
  assert np.abs(found - place).max(axis=0) == pytest.approx(0.05, abs=0.005)


def test_a_box_that_fills_its_quarter_stays():
  rng = np.random.default_rng(0)
  places = layout.PLACES[4]
  assert layout.wander(rng, places, [0.25] * 4, most=0.1, margin=0.02) == places


def test_each_place_takes_one_box():
  with pytest.raises(ValueError, match='zip'):
    layout.wander(
      np.random.default_rng(0), layout.PLACES[2], [0.1], most=0.1, margin=0.02
    )
