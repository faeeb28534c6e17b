"""Thresholds on metadata."""

import numpy as np
import pytest

from imagen_jax import config
from imagen_jax.data import filters


def refused(row, **wanted):
  return filters.refused(row, [config.FilterConfig('x', **wanted)])


@pytest.mark.parametrize(
  'value', [0.3, [0.3], '0.3', ' 0.3 ', [0.3, 9], b'0.3']
)
def test_numbers_come_in_many_forms(value):
  assert refused({'x': value}, least=0.3) == ''
  assert refused({'x': value}, most=0.3) == ''
  assert refused({'x': value}, least=0.31) == 'x under 0.31'
  assert refused({'x': value}, most=0.29) == 'x over 0.29'


@pytest.mark.parametrize('value', ['UNLIKELY', b'UNLIKELY', [b'UNLIKELY']])
def test_texts_come_in_many_forms(value):
  assert refused({'x': value}, accepted=('UNSURE', 'UNLIKELY')) == ''
  assert refused({'x': value}, accepted=('UNSURE',)) == 'x is another'
  assert refused({'x': 3}, accepted=('3',)) == ''


@pytest.mark.parametrize('row', [{}, {'x': None}, {'x': []}, {'x': [None]}])
def test_what_is_not_told_is_refused(row):
  assert refused(row, least=0.0) == 'no x'
  assert refused(row, accepted=('a',)) == 'no x'


@pytest.mark.parametrize('value', ['', 'a', {}, b'\xff', 10**400])
def test_what_is_no_number_is_refused(value):
  assert refused({'x': value}, least=0.0) == 'x is no number'


def test_nan_passes_nothing():
  assert refused({'x': float('nan')}, least=0.0) == 'x under 0'
  assert refused({'x': 'nan'}, most=0.0) == 'x over 0'


def test_all_filters_must_be_passed():
  wanted = [
    config.FilterConfig('x', least=1.0),
    config.FilterConfig('y', accepted=('en',)),
  ]
  assert filters.refused({'x': 1, 'y': 'en'}, wanted) == ''
  assert filters.refused({'x': 1, 'y': 'de'}, wanted) == 'y is another'
  assert filters.refused({'x': 0, 'y': 'de'}, wanted) == 'x under 1'


def test_numbers_are_compared_as_examples_hold_them():
  value = float(np.float32(0.01))  # A little under 0.01.
  assert refused({'x': value}, least=0.01, most=0.01) == ''
  assert refused({'x': 1e300}, least=0.0) == ''
