"""What keeps the quickstart's curves: its commands, its data, its picture."""

import json
import runpy

from PIL import Image
import pytest

from imagen_jax import compare
from imagen_jax import config
from imagen_jax import curves


@pytest.fixture
def script(repo):
  return runpy.run_path(str(repo / 'benchmarks' / 'curves.py'))


def write_run(folder, cfg, losses):
  """A run that has ended."""
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(config.to_json(cfg))
  lines = [
    {'step': step, 'time': 1.0, 'loss': loss, 'images_seen': 8 * step}
    for step, loss in enumerate(losses, 1)
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)


@pytest.fixture
def quickstart(repo, tmp_path):
  """What the script leaves, with stages whose names do not sort by size."""
  folder = tmp_path / 'quick'
  sr64 = config.load(f'{repo}/configs/tiny_sr.py:test')
  sizes = ['stage.name=sr128', 'stage.image_size=128', 'stage.lowres_size=64']
  for name, cfg in (
    ('base', config.load(f'{repo}/configs/tiny_base.py:test')),
    ('sr64', sr64),
    ('sr128', config.override(sr64, sizes)),
  ):
    write_run(folder / name, cfg, [0.5, 0.4, 0.3, 0.25, 0.2, 0.15])
    (folder / 'export' / name).mkdir(parents=True)
    (folder / 'export' / name / 'manifest.json').write_text('{}')
  # By hand, and not exported.
  write_run(folder / 'mine', sr64, [1.0])
  captions = [f'a{n}' for n in range(4)] + [f'b{n}' for n in range(4)]
  (folder / 'score_prompts.txt').write_text('\n'.join(captions) + '\n')
  return folder


def pretend(script, monkeypatch, losses):
  """Has commands be written down, and leave what they would; returns them."""
  module, commands = script['collect'].__globals__, []

  def run(name, *words):
    words = [str(word) for word in words]
    commands.append([name, *words])
    value = lambda flag: words[words.index(flag) + 1]
    if name == 'train':
      cfg = config.load(value('--config'))
      sets = [words[n + 1] for n, word in enumerate(words) if word == '--set']
      cfg = config.override(cfg, sets)
      write_run(module['pathlib'].Path(value('--workdir')), cfg, losses)
    elif name == 'score':
      right = {'all': 1 / 3, 'position': 1.0}
      found = {'shapes': {'pictures': 2, 'right': right}, 'unscored': 0}
      module['pathlib'].Path(value('--out')).write_text(json.dumps(found))

  monkeypatch.setitem(module, 'run', run)
  return commands


def test_stages_are_told_by_their_size(script, quickstart, tmp_path):
  found = script['find_stages'](quickstart)
  assert [folder.name for folder in found] == ['base', 'sr64', 'sr128']
  with pytest.raises(
    ValueError, match='^--quickstart is .*; accepted: the --o'
  ):
    script['find_stages'](tmp_path / 'none')


def test_curves_are_collected(
  script, quickstart, tmp_path, monkeypatch, capsys
):
  losses = [0.5, 0.4, 0.3, 0.2, 0.2, 0.15]
  commands = pretend(script, monkeypatch, losses)
  workdir = tmp_path / 'again'
  found = script['collect'](quickstart, workdir, 4, 4)
  assert 'by up to 25.00%' in capsys.readouterr().out
  trained = config.from_json((workdir / 'base' / 'config.json').read_text())
  assert (trained.keep.every_steps, trained.train.checkpoint_every) == (4, 4)
  asked = config.from_json((quickstart / 'base' / 'config.json').read_text())
  assert config.differences(asked, trained) == []
  assert trained.data.tasks[0].path == str(quickstart / 'data' / 'shapes')
  assert trained.text.store == str(quickstart / 'embeddings')
  steps = ['export', 'sample', 'score']
  assert [command[0] for command in commands] == ['train', *steps, *steps]
  export, sample = commands[1], commands[2]
  assert export[export.index('--step') + 1] == '4'
  weights = sample[sample.index('--weights') + 1 : sample.index('--prompts')]
  assert weights[0] == export[-1] == str(workdir / 'export' / '4')
  assert [path.split('/')[-1] for path in weights[1:]] == ['sr64', 'sr128']
  chosen = (workdir / 'prompts.txt').read_text().split()
  assert chosen == ['a0', 'a2', 'b0', 'b2']
  assert [curve.stage for curve in found] == ['base16', 'sr64', 'sr128']
  shares = {'shapes': {'all': 0.3333, 'position': 1.0}}
  assert found[0].scores == [
    {'step': step, 'images': 8 * step, 'captions': 4, 'scores': shares}
    for step in (4, 6)
  ]

  # What is there is not scored again.
  commands.clear()
  monkeypatch.setitem(script['collect'].__globals__, 'train', lambda *_: [4, 6])
  script['collect'](quickstart, workdir, 4, 4)
  assert commands == []

  # What is kept is what --compare takes, and names no place of this machine.
  path = tmp_path / 'kept.jsonl'
  path.write_text(curves.to_text(found))
  assert str(tmp_path) not in path.read_text()
  assert curves.read(str(path), '--compare') == found
  text = compare.report(str(quickstart / 'base'), str(path))
  assert text.endswith(
    "at step 6, the last in common: the loss is the reference's"
  )


def test_the_picture(script, tmp_path):
  pytest.importorskip('matplotlib', reason='the extra bench is not here')
  lines = [
    {'step': 50 * n, 'images': 400 * n, 'loss': 1 / n} for n in range(1, 20)
  ]
  scores = [
    script['score_line'](
      step, 8 * step, 4, {'shapes': {'right': {'all': 0.5}}, 'unscored': 0}
    )
    for step in (100, 200)
  ]
  base = curves.Curve('base16', {}, lines, scores)
  other = curves.Curve('sr64', {}, lines[:9])
  sizes = set()
  for number, drawn in enumerate(([base], [base, other])):
    path = tmp_path / f'{number}.png'
    script['draw'](drawn, path)
    with Image.open(path) as image:
      image.load()
      assert image.size == (1000, 400)
      sizes.add(image.convert('RGB').tobytes())
  assert len(sizes) == 2
