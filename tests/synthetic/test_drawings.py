import collections

import numpy as np
import pytest

from imagen_jax.synthetic import drawings
from imagen_jax.synthetic import openmoji
from imagen_jax.synthetic import words


def test_there_are_many_objects():
  assert len(drawings.objects()) > 1800


def test_names_are_fit_for_captions():
  names = list(drawings.objects())
  assert not any('_' in name or ':' in name or '’' in name for name in names)
  assert not any('skin' in name for name in names)
  assert drawings.objects()['lobster'] == '1F99E'
  assert drawings.objects()['flag of Hungary'] == '1F1ED-1F1FA'
  assert 'french fries' not in names


def test_plurals_are_distinct():
  plurals = collections.Counter(map(words.plural, drawings.objects()))
  assert max(plurals.values()) == 1


def test_each_name_has_its_own_drawing():
  stems = collections.Counter(drawings.objects().values())
  assert max(stems.values()) == 1


@pytest.mark.parametrize('pixels', [13, 35, 200])
@pytest.mark.parametrize('name', ['giraffe', 'taxi', 'star'])
def test_a_drawing_fills_its_crop(name, pixels):
  drawn = drawings.drawing(name, pixels)
  assert drawn.dtype == np.uint8 and drawn.shape[2] == 4
  assert abs(max(drawn.shape[:2]) - pixels) <= 1
  rows, columns = np.nonzero(drawn[..., 3] > 8)
  height, width = drawn.shape[:2]
  borders = (rows.min(), height - 1 - rows.max(),
             columns.min(), width - 1 - columns.max())  # fmt: skip
  assert max(borders) <= 1 + pixels // 100
  assert len(rows) > 0.2 * height * width


def test_drawings_differ():
  pictures = {drawings.drawing(n, 20).tobytes() for n in openmoji.QUICK_OBJECTS}
  assert len(pictures) == 64


def test_a_drawing_is_read_only():
  with pytest.raises(ValueError, match='read-only'):
    drawings.drawing('star', 20)[0] = 0


def test_unknown_object_is_refused():
  with pytest.raises(ValueError, match="object 'griffin' is not drawn"):
    drawings.drawing('griffin', 20)
