"""The table of what every mesh computes alike."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture
def meshes(repo, monkeypatch):
  """The command, as a module."""
  path = repo / 'benchmarks' / 'meshes.py'
  spec = importlib.util.spec_from_file_location('meshes', path)
  module = importlib.util.module_from_spec(spec)
  # Which dataclasses look for.
  monkeypatch.setitem(sys.modules, 'meshes', module)
  spec.loader.exec_module(module)
  return module


def test_slices_have_every_other_device(meshes):
  """And only copies of the model span them."""
  row = meshes.ROWS['2 slices: data 4, fsdp 2']
  mesh = meshes.mesh_of(row)
  assert dict(mesh.shape) == {'data': 4, 'fsdp': 2, 'model': 1}
  ids = np.vectorize(lambda each: each.id)(mesh.devices)
  assert (ids[:2] % 2 == 0).all() and (ids[2:] % 2 == 1).all()


def test_differences_are_of_their_own_size(meshes):
  alone = {
    'losses': np.array([1.0, 0.5]),
    'before': np.array([5.0, 1.0]),
    'after': np.array([5.0, 3.0]),
  }
  found = {**alone, 'losses': np.array([1.1, 0.4])}
  found['after'] = np.array([5.3, 3.4])
  np.testing.assert_allclose(
    meshes.differences(found, alone), (0.2, 0.25), rtol=1e-12
  )


def test_every_stage_of_the_paper_is_there_in_small(meshes):
  for stage in meshes.STAGES:
    config = meshes.config_of(stage)
    assert config.stage.name == stage
    batch = meshes.batch_of(config, 0)
    assert batch.image.shape == (8, *2 * [config.stage.image_size], 3)
    assert (batch.lowres is None) == (stage == 'base64')


def test_refuses_what_it_does_not_know(meshes, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['meshes.py', '--rows', 'data 9'])
  with pytest.raises(SystemExit, match=r"--rows \['data 9'\]; accepted: \['da"):
    meshes.main()


@pytest.mark.slow
def test_prints_a_table_and_says_where_a_mesh_differs(repo):
  """Of one process and of four; no two meshes round alike."""
  rows = ['data 2, fsdp 2, model 2', '4 processes: data 2, fsdp 2, model 2']
  done = subprocess.run(
    [sys.executable, repo / 'benchmarks' / 'meshes.py', '--steps', '2']
    + ['--stages', 'sr256', '--rows', *rows, '--tolerance', '0'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1, done.stderr
  # Gloo says there with whom it is connected, too.
  said = [line for line in done.stdout.splitlines() if line.startswith('|')]
  head, _, *lines = said
  assert head == '| mesh | sr256: loss | sr256: parameters |'
  for row, line in zip(rows, lines, strict=True):
    name, *numbers = (each.strip() for each in line.strip('|').split('|'))
    assert name == row
    assert all(float(number) < 1e-4 for number in numbers), line
