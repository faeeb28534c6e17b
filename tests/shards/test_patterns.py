"""Patterns: what braces stand for, and what is refused."""

import pytest

from imagen_jax.shards import patterns


def expand(pattern):
  return list(patterns.expand(pattern, 'path'))


def test_braces_are_ranges_and_choices():
  assert expand('a/{08..11}.tar') == [
    f'a/{n}.tar' for n in ('08', '09', 10, 11)
  ]
  assert expand('{8..10}') == ['8', '9', '10']
  assert expand('{x,y}-{0..1}*') == ['x-0*', 'x-1*', 'y-0*', 'y-1*']
  assert expand('plain') == ['plain']


@pytest.mark.parametrize(
  'pattern', ['{3..1}', '{a}', '{', 'a}b', '{{1..2}}', '{0..99999999999999999}']
)
def test_other_braces_are_refused(pattern):
  with pytest.raises(ValueError, match='path is .*; accepted: braces in pairs'):
    expand(pattern)


def test_too_many_files_are_refused():
  with pytest.raises(ValueError, match='names 16,000,000 files; accepted: up'):
    expand('{0000..3999}{0000..3999}')


def test_the_fixed_folder_ends_where_names_vary():
  assert patterns.fixed_folder('/a/b/{0..9}/c.tar') == '/a/b'
  assert patterns.fixed_folder('gs://b/x-*.tar') == 'gs://b'
  assert patterns.fixed_folder('*.tar') == ''
