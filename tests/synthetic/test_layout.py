import itertools

import numpy as np
import pytest

from imagen_jax.synthetic import layout


@pytest.mark.parametrize('half', [0.05, 0.2, 0.23])
def test_boxes_in_quarters_keep_apart(half):
  rng = np.random.default_rng(0)
  for _ in range(200):
    centres = layout.in_quarters(rng, [half] * 4, 0.02)
    for x, y in centres:
      assert min(x, y, 1 - x, 1 - y) >= half + 0.02 - 1e-9
    for (x, y), (u, v) in itertools.combinations(centres, 2):
      assert max(abs(x - u), abs(y - v)) >= 2 * half + 0.04 - 1e-9


def test_each_quarter_is_used():
  rng = np.random.default_rng(0)
  seen = {
    (x > 0.5, y > 0.5)
    for _ in range(100)
    for x, y in layout.in_quarters(rng, [0.1, 0.1], 0.02)
  }
  assert len(seen) == 4


def test_anywhere_reaches_the_margins_and_no_further():
  rng = np.random.default_rng(0)
  points = np.array([layout.anywhere(rng, 0.2, 0.05) for _ in range(2000)])
  assert points.min() == pytest.approx(0.25, abs=0.01)
  assert points.max() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize('halves', [(0.1, 0.1), (0.22, 0.1), (0.1, 0.22)])
def test_side_by_side(halves):
  rng = np.random.default_rng(0)
  for _ in range(500):
    pairs = layout.side_by_side(rng, halves, margin=0.02, apart=0.3, aside=0.1)
    (along, across), (along_second, across_second) = pairs
    gap = along_second - along
    assert gap >= max(0.3, sum(halves) + 0.04) - 1e-9
    assert abs(across - across_second) <= 0.1 + 1e-9
    for centre, half in zip(pairs, halves):
      assert min(centre) >= half + 0.02 - 1e-9
      assert max(centre) <= 1 - half - 0.02 + 1e-9
