"""`imagen-jax score` on true pictures, on others, and on what is broken."""

import json

import numpy as np
from PIL import Image
import pytest

from imagen_jax.cli import main
from imagen_jax.synthetic import openmoji
from imagen_jax.synthetic import shapes


@pytest.fixture
def folder(tmp_path):
  """Writes (caption, picture) pairs as `imagen-jax sample` does."""

  def write(pairs):
    with (tmp_path / 'samples.jsonl').open('w') as lines:
      for number, (caption, pixels) in enumerate(pairs):
        name = f'{number}.png'
        Image.fromarray(pixels).save(tmp_path / name)
        lines.write(json.dumps({'file': name, 'prompt': caption}) + '\n')
    return tmp_path

  return write


def drawn_shapes(count):
  rng = np.random.default_rng(0)
  for _ in range(count):
    scene = shapes.sample_scene(rng)
    yield shapes.caption(scene.statement), shapes.render(scene, 64)


def score(folder, *flags):
  out = folder / 'scores.json'
  argv = ['score', '--samples', str(folder), '--out', str(out), *flags]
  assert main.main(argv) == 0
  return json.loads(out.read_text())


def test_true_pictures_are_right_and_others_are_counted(folder, capsys):
  grey = np.full((64, 64, 3), 128, np.uint8)
  pairs = [*drawn_shapes(20), ('a quiet afternoon', grey)]
  scores = score(folder(pairs))
  assert scores['unscored'] == 1
  assert scores['shapes']['pictures'] == 20
  right = scores['shapes']['right']
  assert right.keys() >= {'colour', 'shape', 'count', 'all'}
  assert all(share >= 0.95 for share in right.values())
  said = capsys.readouterr().out
  assert 'shapes (20 pictures): ' in said
  assert 'unscored: 1 pictures of other captions' in said


def test_pictures_of_other_captions_are_wrong(folder):
  captions, pictures = zip(*drawn_shapes(20))
  scores = score(folder(zip(captions, [*pictures[1:], pictures[0]])))
  assert scores['shapes']['right']['colour'] < 0.6


def test_drawings_are_told_apart(folder):
  names = openmoji.choose_objects(8)
  rng = np.random.default_rng(0)
  scenes = [openmoji.sample_scene(rng, names) for _ in range(4)]
  pairs = [
    (openmoji.caption(scene.statement), openmoji.render(scene, 64))
    for scene in scenes
  ]
  scores = score(folder(pairs), '--objects', '8')
  assert scores['openmoji']['pictures'] == 4
  assert scores['openmoji']['right']['background'] == 1
  assert scores['openmoji']['right']['top5'] == 1


def refused(capsys, folder):
  status = main.main(['score', '--samples', str(folder)])
  assert status == 2
  said = capsys.readouterr().err
  assert said.count('\n') == 1
  return said


def test_a_folder_without_samples_is_refused(tmp_path, capsys):
  said = refused(capsys, tmp_path / 'none')
  assert 'none is no folder; accepted: one that `imagen-jax' in said
  assert 'has no samples.jsonl; acc' in refused(capsys, tmp_path)


@pytest.mark.parametrize('line', ['{"file": ', '{"file": "0.png"}', '[]'])
def test_a_broken_line_is_named(line, folder, capsys):
  path = folder(drawn_shapes(1))
  with (path / 'samples.jsonl').open('a') as lines:
    lines.write(line + '\n')
  assert 'line 2 of samples.jsonl is broken; acc' in refused(capsys, path)


def test_a_picture_that_cannot_be_read_is_named(folder, capsys):
  path = folder(drawn_shapes(1))
  blob = (path / '0.png').read_bytes()
  for contents in (blob[: len(blob) // 2], b'no picture'):
    (path / '0.png').write_bytes(contents)
    assert '0.png cannot be read (' in refused(capsys, path)
  (path / '0.png').unlink()
  assert '0.png cannot be read (' in refused(capsys, path)
