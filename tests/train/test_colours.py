"""Shifts of colour and contrast, made and measured."""

import math

import numpy as np
import pytest

from imagen_jax.train import colours


def pictures(seed, size=8, low=60, high=180):
  rng = np.random.default_rng(seed)
  return rng.integers(low, high, (5, size, size, 3)).astype(np.uint8)


def test_data_is_as_it_is():
  assert colours.against(pictures(0), pictures(0)) == {
    'shift_r': 0,
    'shift_g': 0,
    'shift_b': 0,
    'contrast': 1,
  }


def test_a_shift_is_found_in_its_channel():
  data = pictures(0)
  found = colours.against(data + np.array([51, 0, 0], np.uint8), data)
  assert found['shift_r'] == pytest.approx(0.4)
  assert found['shift_g'] == found['shift_b'] == 0
  # A colour that is wrong all over is no contrast.
  assert found['contrast'] == pytest.approx(1)


def test_a_loss_of_contrast_is_found():
  data = pictures(0)
  mean = data.mean(axis=(1, 2), keepdims=True)
  half = np.round(mean + (data - mean) / 2).astype(np.uint8)
  found = colours.against(half, data)
  assert found['contrast'] == pytest.approx(0.5, abs=0.01)
  for channel in 'rgb':
    assert abs(found[f'shift_{channel}']) < 0.01


def test_pictures_of_another_size_are_compared():
  data = pictures(0)
  large = data.repeat(2, axis=1).repeat(2, axis=2)
  found = colours.against(large, data)
  assert found == pytest.approx(colours.against(data, data))


def test_data_without_contrast_has_nothing_to_compare_with():
  flat = np.full((2, 4, 4, 3), 128, np.uint8)
  found = colours.against(pictures(0), flat)
  assert math.isnan(found['contrast'])
  assert math.isfinite(found['shift_r'])
