"""A run's losses laid over others: what is in common, and how far it is."""

import json
import math
import random

import numpy as np
import pytest

from imagen_jax import compare
from imagen_jax import config
from imagen_jax import curves
from imagen_jax.cli import main


def loss_at(image):
  return 0.02 + 0.4 / (1 + image / 3200)


def curve(num_steps, every, *, batch=32, scale=1.0, noise=0.0, images=True):
  """A curve whose lines are exact means of one function of images seen."""
  draw, lines = random.Random(scale), []
  for step in range(every, num_steps + 1, every):
    steps = range(step - every + 1, step + 1)
    mean = sum(loss_at(each * batch) for each in steps) / every
    mean *= scale * math.exp(draw.gauss(0, noise))
    lines.append({'step': step, 'loss': mean})
    if images:
      lines[-1]['images'] = step * batch
  return curves.Curve('base16', {'train.batch_size': batch}, lines)


def write(folder, lines, *overrides):
  """A workdir with a curve's lines as its metrics."""
  folder.mkdir()
  cfg = config.override(config.load('configs/tiny_base.py'), overrides)
  (folder / 'config.json').write_text(config.to_json(cfg))
  with (folder / 'metrics.jsonl').open('w') as file:
    for line in lines:
      line = {**line, 'time': 1.0}
      if 'images' in line:
        line['images_seen'] = line.pop('images')
      file.write(json.dumps(line) + '\n')
  return str(folder)


@pytest.fixture(autouse=True)
def in_repo(repo, monkeypatch):
  monkeypatch.chdir(repo)


def test_rows_are_even_over_what_both_have():
  found = compare.compare(curve(2000, 50), curve(4000, 50, scale=2.0))
  assert found.by == 'step'
  assert found.edges == list(range(0, 2001, 200))
  np.testing.assert_allclose(
    np.divide(found.run, found.reference), 0.5, rtol=1e-9
  )
  # The mean over a row's steps, all of them and no others.
  exact = np.mean([loss_at(32 * step) for step in range(201, 401)])
  assert found.run[1] == pytest.approx(exact, rel=1e-9)
  assert [len(bars) for bars in found.bars] == [40, 40]
  assert found.bars[0][0] == '█' and found.bars[1][-1] == '▁'
  assert found.bars[1][0] != '█' and found.bars[0][-1] != '▁'
  highest = 2 * np.mean([loss_at(32 * step) for step in range(1, 51)])
  lowest = np.mean([loss_at(32 * step) for step in range(1951, 2001)])
  assert found.scale == pytest.approx((lowest, highest))


def test_another_rhythm_of_lines_changes_no_mean():
  found = compare.compare(curve(1000, 10), curve(1000, 100))
  assert found.edges == list(range(0, 1001, 100))
  np.testing.assert_allclose(found.run, found.reference, rtol=1e-9)


def test_other_batches_are_laid_over_by_images():
  run, reference = curve(4000, 50), curve(2000, 10, batch=64)
  found = compare.compare(run, reference)
  assert (found.by, found.edges[-1]) == ('images', 128_000)
  np.testing.assert_allclose(found.run, found.reference, rtol=0.02)
  # One of them does not tell: by steps, at which they differ.
  found = compare.compare(run, curve(2000, 10, batch=64, images=False))
  assert (found.by, found.edges[-1]) == ('step', 2000)
  assert found.run[3] > 1.4 * found.reference[3]


def test_few_lines_are_few_rows_and_none_are_none():
  found = compare.compare(curve(150, 50), curve(4000, 50))
  assert found.edges == [0, 50, 100, 150]
  assert found.noise is None
  assert compare.compare(curve(0, 50), curve(4000, 50)) is None
  assert compare.compare(curve(90, 10), curve(4000, 100)) is None
  assert compare.compare(curve(10, 10), curve(10, 10)).edges == [0, 10]


def test_a_curve_whose_beginning_is_lost_starts_where_it_does():
  run = curve(1000, 50)
  found = compare.compare(
    curves.Curve('base16', {}, run.lines[10:]), curve(1000, 50)
  )
  assert found.edges[0] == 500
  np.testing.assert_allclose(found.run, found.reference, rtol=1e-9)


def test_noise_is_that_of_the_lines_and_not_the_fall_of_the_curve():
  errors = []
  for seed in range(40):
    run = curve(8000, 20, scale=1 + seed * 1e-9, noise=0.1)
    found = compare.compare(run, curve(8000, 20))
    errors.append(math.log(found.run[-1] / found.reference[-1]) / found.noise)
  assert found.noise == pytest.approx(0.1 / math.sqrt(40), rel=0.4)
  assert 0.7 < np.std(errors) < 1.4


def test_the_report(tmp_path, capsys):
  run = curve(1000, 10, noise=0.03)
  run.lines[-1] |= {'eval_x_loss': 0.5}
  other = curve(2000, 10, scale=1.25)
  other.lines[99] |= {'eval_x_loss': 0.25, 'eval_ema_x_loss': 1.0}
  workdir = write(tmp_path / 'run', run.lines, 'train.num_steps=1000')
  reference = write(tmp_path / 'other', other.lines)
  assert main.main(['status', workdir, '--compare', reference]) == 0
  above, below = capsys.readouterr().out.split('\n\n')
  assert above.startswith('base16: step 1,000 of 1,000 (100.0%), finished')
  lines = below.splitlines()
  assert lines[0] == f'against {reference} (base16):'
  assert lines[1].split()[:5] == ['step', 'reference', 'this', 'run', 'ratio']
  assert '(loss, the mean over the steps since the row above)' in lines[1]
  rows = [line.split() for line in lines[2:12]]
  assert [row[0] for row in rows] == [f'{n:,}' for n in range(100, 1001, 100)]
  assert all(0.75 < float(row[3]) < 0.85 for row in rows)
  assert lines[12].startswith('reference: █')
  assert lines[13].startswith('this run:  ') and lines[13].endswith('▁')
  assert lines[15:17] == [
    'held out, at step 1,000: eval_x_loss 0.5 (reference: 0.25)',
    'configs differ: train.num_steps 1000 (reference: 4000)',
  ]
  start = 'at step 1,000, the last in common: the loss is '
  assert lines[17].startswith(start)
  share = (1 - float(rows[-1][3])) * 100
  told = float(lines[17].removeprefix(start).partition('%')[0])
  assert told == pytest.approx(share, abs=0.06)
  assert " below the reference's (more than the noise of its li" in lines[17]
  assert len(lines) == 18


def test_a_run_is_like_itself(tmp_path):
  workdir = write(tmp_path / 'run', curve(1000, 10, noise=0.1).lines)
  lines = compare.report(workdir, workdir).splitlines()
  assert lines[-1].endswith("in common: the loss is the reference's")
  assert lines[-2].startswith('           one scale for both')


def test_losses_of_other_batches_and_kinds_are_told(tmp_path):
  workdir = write(tmp_path / 'run', curve(200, 10).lines)
  eps = [
    'train.batch_size=64',
    *(f'stage.diffusion.{n}=eps' for n in ('prediction', 'loss')),
  ]
  other = curve(100, 10, batch=64)
  reference = write(tmp_path / 'other', other.lines, *eps)
  text = compare.report(workdir, reference)
  assert 'train.batch_size 32 (reference: 64)' in text
  assert '\nafter 6,400 images, the last in common: the loss is ' in text
  assert text.endswith(
    ', which is of another kind: stage.diffusion.prediction differs'
  )
  lines = [{k: v for k, v in x.items() if k != 'images'} for x in other.lines]
  bare = write(tmp_path / 'bare', lines, *eps)
  assert '\nby steps: no images_seen in the reference\n' in compare.report(
    workdir, bare
  )


def test_the_stage_of_a_file_is_found_by_name(tmp_path):
  workdir = write(tmp_path / 'run', curve(200, 10).lines)
  mine, other = curve(400, 10), curves.Curve('sr64', {}, curve(90, 10).lines)
  path = tmp_path / 'some.jsonl'
  path.write_text(curves.to_text([other, mine]))
  assert '(base16):\n' in compare.report(workdir, str(path))
  path.write_text(curves.to_text([other]))
  assert '(sr64):\n' in compare.report(workdir, str(path))
  path.write_text(curves.to_text([other, curves.Curve('x', {}, other.lines)]))
  with pytest.raises(ValueError, match="^--compare is .* no curve of 'base16'"):
    compare.report(workdir, str(path))


def test_a_run_that_has_just_begun(tmp_path, capsys):
  reference = write(tmp_path / 'other', curve(200, 10).lines)
  workdir = write(tmp_path / 'run', [])
  assert main.main(['status', workdir, '--compare', reference]) == 0
  out = capsys.readouterr().out
  assert out.endswith(f'against {reference} (base16): no steps in common yet\n')


def test_rubbish_is_one_line(tmp_path, capsys):
  workdir = write(tmp_path / 'run', curve(200, 10).lines)
  assert main.main(['status', workdir, '--compare', workdir + '/none']) == 2
  told = capsys.readouterr().err
  assert told.startswith("imagen-jax: --compare is '") and told.count('\n') == 1
  assert '; accepted: the --workdir of a run that has metrics, or ' in told
