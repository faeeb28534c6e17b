"""The benchmark of steps: its rows, its count of calls, its table."""

import runpy

import pytest


@pytest.fixture
def steps(repo):
  return runpy.run_path(str(repo / 'benchmarks' / 'steps.py'))


def test_rows(steps):
  assert steps['parse']('ddim:24,12', 2) == ('ddim', 'time', [24, 12])
  assert steps['parse']('heun+karras:6', 1) == ('heun', 'karras', [6])


@pytest.mark.parametrize('row', ['ddim', 'ddim:x,2', 'ddim:2', 'ddim:1,2,3'])
def test_what_is_no_row_is_refused(row, steps):
  with pytest.raises(ValueError, match=f"row '{row}'; accepted: SAMPLER"):
    steps['parse'](row, 2)


def test_heun_calls_twice_but_for_the_last_step(steps):
  assert steps['calls']('dpmpp', [6, 3]) == 9
  assert steps['calls']('heun', [6, 3]) == 16


def test_the_table_has_a_line_a_row(steps):
  scores = {'shapes': {'right': {'colour': 1.0, 'shape': 0.965}}}
  lines = [{'row': 'ddim:24,12', 'calls': 36, 'scores': scores}]
  head, _, line = steps['table'](lines).splitlines()
  assert head.startswith('| sampler | steps | calls | colour | shape |')
  assert line.startswith('| ddim | 24 + 12 | 36 | 100% | 96% | - |')
