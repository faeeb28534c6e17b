"""The shapes that captions are encoded in."""

import numpy as np
import pytest

from imagen_jax.text import shapes


@pytest.mark.parametrize(
  'max_length, expected',
  [
    (128, [8, 12, 16, 24, 32, 48, 64, 96, 128]),
    (77, [8, 12, 16, 24, 32, 48, 64, 77]),
    (12, [8, 12]),
    (4, [4]),
  ],
)
def test_lengths(max_length, expected):
  assert shapes.lengths(max_length) == expected


def test_tiles_hold_every_caption_at_its_own_length():
  counts = np.random.default_rng(0).integers(1, 33, 500)
  found = np.zeros(500, int)
  for positions, length in shapes.tiles(counts, [8, 12, 32], 16):
    assert 0 < len(positions) <= 16
    found[positions] += length
  assert (found == np.select([counts <= 8, counts <= 12], [8, 12], 32)).all()


def test_only_the_last_tile_of_a_length_has_room():
  counts = np.array([3] * 40 + [10] * 20)
  tiles = [(len(p), n) for p, n in shapes.tiles(counts, [8, 12], 16)]
  assert tiles == [(16, 12), (4, 12), (16, 8), (16, 8), (8, 8)]


def test_no_captions_have_no_tiles():
  assert not list(shapes.tiles(np.empty(0, int), [8], 4))
