"""Curves of losses: out of a run's metrics, into a file and back."""

import json

import pytest

from imagen_jax import config
from imagen_jax import curves

FIELDS = {'stage': 'base64', 'fields': {'train.batch_size': 8}}
LINE = {'stage': 'base64', 'step': 10, 'images': 80, 'loss': 0.5}


@pytest.fixture
def workdir(tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text(config.to_json(config.Config()))
  return folder


def write(path, lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return str(path)


def test_a_run_is_read_with_what_its_losses_depend_on(workdir):
  metrics = workdir / 'metrics.jsonl'
  write(
    metrics,
    [
      {'step': 10, 'time': 5.0, 'loss': 0.5, 'images_seen': 80.0},
      {'step': 15, 'eval_loss': 0.75, 'eval_loss/snr_m6': 2.0},
      {'step': 20, 'loss': float('inf'), 'images_seen': 160.0},
      {'step': 30, 'loss': 0.25},
      {'step': 40, 'images_per_second': 1.0},
    ],
  )
  with metrics.open('a') as file:
    file.write('7\n{"step": 50, "lo')
  curve = curves.of_run(str(workdir), 'WORKDIR')
  assert curve.stage == 'base64'
  assert curve.lines == [
    {'step': 10, 'images': 80, 'loss': 0.5},
    {'step': 15, 'eval_loss': 0.75},
    {'step': 30, 'loss': 0.25},
  ]
  assert curve.losses == [curve.lines[0], curve.lines[2]]
  assert not curve.has_images
  assert curve.fields['train.batch_size'] == 2048
  assert curve.fields['stage.unet.channels'] == [512, 1024, 1536, 2048]
  # What tells nothing of losses, or of the machine.
  no = {'train.log_every', 'mesh.data', 'text.store', 'stage.sample.num_steps'}
  assert not no & set(curve.fields)


def test_a_run_without_metrics_has_a_curve_and_is_no_reference(workdir):
  assert curves.of_run(str(workdir), 'WORKDIR').lines == []
  with pytest.raises(ValueError, match="where 'base64' has no losses; accept"):
    curves.read(str(workdir), '--compare')


def test_a_file_of_curves_gives_back_what_was_written(tmp_path):
  base = curves.Curve(
    'base16',
    {'stage.unet.channels': [96], 'train.num_steps': 100},
    [
      {'step': 50, 'images': 400, 'loss': 0.123456789},
      {'step': 100, 'images': 800, 'loss': 1e-3, 'eval_x_loss': 2.0},
    ],
    [{'step': 100, 'captions': 4, 'scores': {'shapes': {'all': 0.5}}}],
  )
  other = curves.Curve('sr64', {}, [{'step': 7, 'loss': 3.0}])
  path = tmp_path / 'some.jsonl'
  path.write_text(curves.to_text([base, other]))
  one, two = curves.read(str(path), '--compare')
  assert one.lines[0].pop('loss') == 0.12346
  assert base.lines[0].pop('loss') == 0.123456789
  assert (one, two) == (base, other)


@pytest.mark.parametrize(
  'lines, words',
  [
    ([], 'which is empty; accepted: the --workdir of a run that has met'),
    ([FIELDS], "where 'base64' has no losses"),
    ([LINE], 'whose line 1 is none of a file of curves; accepted: the --work'),
    ([FIELDS, FIELDS], 'line 2'),
    ([{**FIELDS, 'fields': 3}], 'line 1'),
    ([FIELDS, 3], 'line 2'),
    ([FIELDS, LINE, LINE], 'line 3'),
    ([FIELDS, LINE, {**LINE, 'step': 20}], 'line 3'),
    ([FIELDS, {**LINE, 'step': 'x'}], 'line 2'),
    ([FIELDS, {**LINE, 'loss': None}], 'line 2'),
    ([FIELDS, {**LINE, 'loss': True}], 'line 2'),
    ([FIELDS, {**LINE, 'loss': 0.0}], 'line 2'),
    ([FIELDS, {**LINE, 'loss': float('nan')}], 'line 2'),
    ([FIELDS, {'stage': 'base64', 'step': 20}], 'line 2'),
    ([FIELDS, {**LINE, 'stage': 'sr64'}], 'line 2'),
    ([{'step': 10, 'loss': 1.0}], 'line 1'),
  ],
)
def test_what_is_no_file_of_curves_is_refused(lines, words, tmp_path):
  path = write(tmp_path / 'some.jsonl', lines)
  with pytest.raises(ValueError, match='^--compare is .*some.jsonl') as no:
    curves.read(path, '--compare')
  assert words in str(no.value) and '\n' not in str(no.value)


@pytest.mark.parametrize(
  'data', [b'\x89PNG\r\n\x1a\n\0', b'[' * 10**5, b'\xff']
)
def test_other_files_are_refused(data, tmp_path):
  (tmp_path / 'file').write_bytes(data)
  with pytest.raises(ValueError, match='whose line 1 is none of a file of cu'):
    curves.read(str(tmp_path / 'file'), '--compare')


def test_what_is_neither_run_nor_file_is_refused(tmp_path, monkeypatch):
  for place in ('', str(tmp_path), str(tmp_path / 'none')):
    with pytest.raises(ValueError, match='which is neither; accepted: the --'):
      curves.read(place, '--compare')
  monkeypatch.setattr(curves, '_LARGEST', 3)
  (tmp_path / 'file').write_text('1234')
  with pytest.raises(ValueError, match='which is too large; accepted: the --'):
    curves.read(str(tmp_path / 'file'), '--compare')


@pytest.mark.parametrize('text', ['{', '[]', '{}', '{"stage": 3}'])
def test_a_broken_config_is_refused(text, workdir):
  (workdir / 'config.json').write_text(text)
  with pytest.raises(ValueError, match='whose config.json is broken; accepted'):
    curves.read(str(workdir), '--compare')
