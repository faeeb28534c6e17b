"""The benchmark of steps: its rows, its count of calls, its table."""

import runpy
import types

from PIL import Image
import pytest

from imagen_jax import config
from imagen_jax.diffusion import sampler


@pytest.fixture
def steps(repo):
  return runpy.run_path(str(repo / 'benchmarks' / 'steps.py'))


@pytest.fixture
def targets(repo):
  return runpy.run_path(str(repo / 'benchmarks' / 'targets.py'))


def test_rows(steps):
  assert steps['parse']('ddim:24,12', 2) == ('ddim', 'time', [24, 12])
  assert steps['parse']('heun+karras:6', 1) == ('heun', 'karras', [6])
  # By time it cannot be.
  assert steps['parse']('heun:6', 1) == ('heun', 'karras', [6])
  assert steps['parse']('heun+logsnr:6', 1) == ('heun', 'logsnr', [6])
  assert steps['parse']('own', 2) == (None, None, None)


@pytest.mark.parametrize('row', ['ddim', 'ddim:x,2', 'ddim:2', 'ddim:1,2,3'])
def test_what_is_no_row_is_refused(row, steps):
  with pytest.raises(ValueError, match=f"row '{row}'; accepted: own, or SA"):
    steps['parse'](row, 2)


def test_heun_calls_twice_but_for_the_last_step(steps):
  assert steps['calls']([('dpmpp', 6), ('ddim', 3)]) == 9
  assert steps['calls']([('heun', 6), ('heun', 3)]) == 16
  assert steps['calls']([('ddim', 6), ('heun', 3)]) == 11


def test_the_table_has_a_line_a_row(steps):
  scores = {'shapes': {'right': {'colour': 1.0, 'shape': 0.965}}}
  lines = [{'row': 'ddim:24,12', 'calls': 36, 'scores': scores}]
  head, _, line = steps['table'](lines).splitlines()
  assert head.startswith('| sampler | steps | calls | colour | shape |')
  assert line.startswith('| ddim | 24 + 12 | 36 | 100% | 96% | - |')
  own = {'settings': [['ddim', 24], ['ancestral', 32]], 'calls': 56}
  lines = [{'row': 'own', 'scores': scores, **own}]
  line = steps['table'](lines).splitlines()[-1]
  assert line.startswith('| own | ddim 24 + ancestral 32 | 56 | 100% |')


def test_the_distance_of_pictures(steps, tmp_path):
  for name, values in (('one', (10, 20)), ('other', (13, 24))):
    (tmp_path / name).mkdir()
    for number, value in enumerate(values):
      picture = Image.new('RGB', (4, 4), (value,) * 3)
      picture.save(tmp_path / name / f'{number:05d}_00_w0.png')
    Image.new('RGB', (4, 4), (255,) * 3).save(tmp_path / name / 'grid.png')
  found = steps['distance'](tmp_path / 'one', tmp_path / 'other')
  assert found == pytest.approx(12.5**0.5)
  line = {'row': 'ddim:2', 'calls': 2, 'scores': {}, 'distance': found}
  shown = steps['table']([line]).splitlines()
  assert shown[0].endswith('| top5 | distance |')
  assert shown[2].endswith('| - | 3.5 |')


def test_own_sets_nothing(steps, monkeypatch):
  """And is what the stages were exported with, which is written down."""
  module = steps['measure'].__globals__
  asked = {}
  generate = types.SimpleNamespace(
    generate=lambda *args, **options: asked.update(options)
  )
  samples = [
    config.SampleConfig(sampler='heun', num_steps=6, spacing='karras'),
    config.SampleConfig(sampler='ancestral', num_steps=32),
  ]
  export = types.SimpleNamespace(
    load_weights=lambda place: types.SimpleNamespace(
      stage=config.StageConfig(sample=samples[place])
    )
  )
  scores = types.SimpleNamespace(score_folders=lambda *_: {})
  monkeypatch.setitem(module, 'generate', generate)
  monkeypatch.setitem(module, 'export', export)
  monkeypatch.setitem(module, 'scores_lib', scores)
  args = types.SimpleNamespace(weights=[0, 1], batch_size=2)
  line = steps['measure']('own', args, ['x'], 'out')
  assert asked['steps'] is asked['sampler'] is None
  assert not asked['settings']
  assert line['settings'] == [('heun', 6), ('ancestral', 32)]
  assert line['calls'] == 11 + 32
  line = steps['measure']('ddim:4,2', args, ['x'], 'out')
  assert asked['settings'] == ['spacing=time'] and asked['steps'] == [4, 2]
  assert line['calls'] == 6


def test_rows_of_each_target(targets):
  assert targets['rows']('x') == {row: row for row in targets['SAMPLERS']}
  assert targets['rows']('edm') == {
    'own': 'own',
    'ancestral:64,32': 'ancestral+karras:64,32',
    'ddim:24,12': 'ddim+karras:24,12',
    'dpmpp:12,6': 'dpmpp+karras:12,6',
    'dpmpp_sde:24,12': 'dpmpp_sde+karras:24,12',
    'heun+karras:24,12': 'heun+karras:24,12',
  }


def test_what_is_set_for_each_target(targets, repo):
  fields_of = targets['fields_of']
  assert (
    fields_of('v', 'sr')
    == fields_of('v', 'base')
    == {
      'stage.diffusion.prediction': 'v',
      'stage.diffusion.loss': 'v',
    }
  )
  assert fields_of('eps-fine', 'sr') == fields_of('x', 'sr')
  fine = fields_of('eps-fine', 'base')
  quick = config.load(str(repo / 'configs' / 'tiny_base.py'))
  run = config.override(quick, [f'{k}={v}' for k, v in fine.items()])
  assert run.stage.diffusion.prediction == 'eps'
  assert run.stage.unet.stem_stride == 1
  # Not those that the run sets for itself.
  fine['train.num_steps'] = 1
  assert fields_of('eps-fine', 'base')['train.num_steps'] == 3000


def test_targets_of_other_lengths_lie_apart(targets, monkeypatch, tmp_path):
  """And are trained for what was asked, a number a stage."""
  ran = []
  module = targets['train'].__globals__
  monkeypatch.setitem(module, 'run', lambda *command: ran.append(command))
  folders = [targets['folder_of']('v', tmp_path, n) for n in (None, [9, 7])]
  assert folders[0] != folders[1]
  for folder, num_steps in zip(folders, (None, [9, 7])):
    targets['train']('v', tmp_path, folder, num_steps)
  trained = [command for command in ran if 'train' in command]
  found = [
    [flag for flag in command if 'num_steps' in str(flag)]
    for command in trained
  ]
  assert found == [[], [], ['train.num_steps=9'], ['train.num_steps=7']]


def test_every_sampler_is_among_the_rows(targets):
  named = {
    row.partition(':')[0].partition('+')[0] for row in targets['SAMPLERS']
  }
  assert named == {'own', *sampler.SAMPLERS}
