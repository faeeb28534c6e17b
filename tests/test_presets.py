"""Presets of sampling."""

import dataclasses

import pytest

from imagen_jax import config
from imagen_jax import presets
from imagen_jax.cli import sample


@pytest.mark.parametrize('name', presets.PRESETS)
@pytest.mark.parametrize('place', range(5))
def test_every_row_is_of_the_schema(name, place):
  row = presets.settings(name, place)
  found = dataclasses.replace(config.SampleConfig(), **row)
  assert found.sampler == row['sampler']


def test_faster_is_fewer_steps():
  for place in range(3):
    steps = [presets.settings(p, place)['num_steps'] for p in presets.PRESETS]
    assert steps == sorted(steps, reverse=True) and len(set(steps)) == 3


def test_the_command_knows_them():
  assert sample._PRESETS == tuple(presets.PRESETS)


def test_the_command_knows_the_samplers():
  from imagen_jax.diffusion import sampler

  assert sample._SAMPLERS == sampler.SAMPLERS
  for name in sampler.SAMPLERS:
    config.SampleConfig(sampler=name, spacing='karras')


def test_the_table_of_the_docs_is_theirs(repo):
  lines = (repo / 'docs' / 'diffusion.md').read_text().splitlines()
  head = '| preset | base | first super-resolution stage | later ones |'
  start = lines.index(head) + 2
  found = {}
  for line in lines[start:]:
    if not line.startswith('|'):
      break
    name, *rows = (cell.strip() for cell in line.strip('|').split('|'))
    found[name.strip('`')] = rows
  assert found == {
    name: [f'{row["sampler"]}, {row["num_steps"]}' for row in rows]
    for name, rows in presets.PRESETS.items()
  }
  spacings = {r['spacing'] for rows in presets.PRESETS.values() for r in rows}
  assert spacings == {'time'}
