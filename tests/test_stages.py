"""The table of stages on kinds of TPU, but for the compiler."""

import pathlib
import runpy

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / 'benchmarks'

FITS = {
  'stage': 'base64',
  'topology': 'v5p:4x4x8',
  'fits': True,
  'hbm': {'total': 18.6 * 2**30},
  'hbm_free_share': 0.804,
  'step_seconds': {
    'opt': 0.2522,
    'mid': 0.2735,
    'pess': 0.2966,
    'mid_collectives_exposed': 0.2736,
    'mid_collectives_overlapped': 0.2575,
  },
  'mfu': {'opt': 0.658, 'mid': 0.606, 'pess': 0.559},
  'images_per_second_per_device': 58.51,
  'replicated': [],
  'compile_wall_seconds': 444.0,
  'compile_cpu_seconds': 768.0,
}
TIMES = ('step_seconds', 'mfu', 'images_per_second_per_device')


@pytest.fixture(scope='module')
def stages():
  return runpy.run_path(str(BENCHMARKS / 'stages.py'))


def cells(line):
  return [cell.strip() for cell in line.strip('|').split('|')]


def test_a_row_has_what_was_modelled(stages):
  assert cells(stages['row'](FITS)) == [
    *('base64', '`v5p:4x4x8`', 'yes, 80%', '18.6'),
    *('273.5 (252.2 to 296.6)', '257.5 to 273.6', '58.5'),
    *('60.6% (55.9 to 65.8)', 'none', '7.4 (12.8)'),
  ]


@pytest.mark.parametrize(
  'more, told',
  [
    ({'fits': False, 'hbm_free_share': -0.02}, ['no, -2%', '18.6', '']),
    ({'not_modelled': 'why'}, ['yes, 80%', '18.6', 'not understood']),
  ],
)
def test_a_row_without_times_has_the_memory(stages, more, told):
  found = {name: FITS[name] for name in FITS if name not in TIMES}
  found |= more | {'replicated': [{'path': 'a', 'bytes': 2**21}]}
  row = cells(stages['row'](found))
  assert row[2:5] == told
  assert row[5:] == ['', '', '', '1', '7.4 (12.8)']
  assert len(row) == stages['HEAD'].count('|') + 1
