"""Where metrics go, and what a resumed run makes of the files it finds."""

import json
import math
import resource
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from imagen_jax.train import metrics as metrics_lib


def writer(workdir, start_step=0, enabled=True):
  return metrics_lib.MetricWriter(
    str(workdir),
    start_step=start_step,
    num_steps=10,
    name='tiny',
    enabled=enabled,
  )


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  found = [json.loads(line) for line in text.splitlines()]
  for line in found:
    assert abs(line.pop('time', time.time()) - time.time()) < 60
  return found


def events(workdir):
  found = event_accumulator.EventAccumulator(str(workdir / 'tensorboard'))
  return found.Reload()


def test_a_line_is_on_disk_once_it_is_written(tmp_path):
  with writer(tmp_path) as out:
    out.write(2, {'loss': 0.5, 'loss_t0': math.nan})
    assert lines(tmp_path) == [{'step': 2, 'loss': 0.5}]
    out.write(4, {'loss': np.float32(0.1)})
    assert lines(tmp_path)[1] == {'step': 4, 'loss': float(np.float32(0.1))}


def test_a_resumed_run_has_each_step_once(tmp_path):
  with writer(tmp_path) as out:
    for step in (2, 4, 6):
      out.write(step, {'loss': float(step)})
  time.sleep(1.1)  # TensorBoard orders files by the second in their names.
  with writer(tmp_path, start_step=4) as out:
    assert [line['step'] for line in lines(tmp_path)] == [2, 4]
    out.write(6, {'loss': 60.0})
  assert [line['loss'] for line in lines(tmp_path)] == [2, 4, 60]
  scalars = events(tmp_path).Scalars('loss')
  assert [(e.step, e.value) for e in scalars] == [(2, 2), (4, 4), (6, 60)]


@pytest.mark.parametrize('rubbish', ['null', '7', '[]', '{"loss": 1}', '{'])
def test_lines_that_are_no_metrics_are_dropped(rubbish, tmp_path):
  path = tmp_path / metrics_lib.METRICS_FILE
  path.write_text(f'{{"step": 2, "loss": 1}}\n{rubbish}\n{{"step": 4}}\n')
  with writer(tmp_path, start_step=4):
    assert [line['step'] for line in lines(tmp_path)] == [2, 4]


def test_a_line_that_was_cut_short_is_dropped(tmp_path):
  file = tmp_path / 'metrics.jsonl'
  for torn in ('{"step": 4, "lo', '{"step": 4, "loss": 1}', '\x00\x00\n'):
    file.write_text('{"step": 2, "loss": 1}\n' + torn)
    with writer(tmp_path, start_step=4) as out:
      out.write(6, {'loss': 3.0})
    assert [line['step'] for line in lines(tmp_path)] == [2, 6]
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'metrics.jsonl',
    'tensorboard',
  ]


def test_flushed_events_survive_the_process(tmp_path):
  with writer(tmp_path) as out:
    out.write(2, {'loss': 0.25})
    out.flush()
    (event,) = events(tmp_path).Scalars('loss')
    assert (event.step, event.value) == (2, 0.25)


def test_images_reach_tensorboard(tmp_path):
  with writer(tmp_path) as out:
    out.image(3, 'samples', b'a png', (20, 10))
  (image,) = events(tmp_path).Images('samples')
  assert image.step == 3
  assert (image.width, image.height) == (20, 10)
  assert image.encoded_image_string == b'a png'


def test_other_hosts_write_nothing(tmp_path):
  with writer(tmp_path / 'other', enabled=False) as out:
    out.write(1, {'loss': 1.0})
    out.image(1, 'samples', b'', (1, 1))
    out.advance()
    out.say('nothing')
    out.flush()
  assert not (tmp_path / 'other').exists()


def test_a_full_disk_costs_no_line(tmp_path, capsys):
  """By the system's own limit of a file's size, reached within a line."""
  path = tmp_path / 'metrics.jsonl'
  # Larger than whatever else is written now.
  path.write_text(json.dumps({'step': 1, 'pad': 'x' * 200_000}) + '\n')
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  with writer(tmp_path, start_step=1) as out:
    whole = path.read_bytes()
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 9, before[1]))
      for step in (2, 3, 4):
        out.write(step, {'loss': float(step)})
        assert path.read_bytes() == whole
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capsys.readouterr().err
    assert told.count('metrics are kept, to be written when they can be') == 1
    assert 'File too large' in told
    out.write(5, {'loss': 5.0})
    assert [line['step'] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]
  scalars = events(tmp_path).Scalars('loss')
  assert [e.step for e in scalars] == [2, 3, 4, 5]


def test_lines_that_wait_are_written_at_the_end(tmp_path, monkeypatch):
  with writer(tmp_path) as out:
    (tmp_path / 'metrics.jsonl').mkdir()
    out.write(2, {'loss': 1.0})
    (tmp_path / 'metrics.jsonl').rmdir()
  assert lines(tmp_path) == [{'step': 2, 'loss': 1.0}]


def test_events_that_cannot_be_written_are_kept(tmp_path, monkeypatch, capsys):
  kind = metrics_lib.event_file_writer.EventFileWriter
  real, full = kind.add_event, [False]

  def add_event(self, event):
    real(self, event)
    if full[0] and event.step == 4:
      raise OSError('no space')

  monkeypatch.setattr(kind, 'add_event', add_event)
  with writer(tmp_path) as out:
    out.write(2, {'loss': 2.0})
    full[0] = True
    time.sleep(1.1)  # TensorBoard orders files by the second in their names.
    out.write(4, {'loss': 4.0})
    out.write(6, {'loss': 6.0})
    full[0] = False
    time.sleep(1.1)
    out.write(8, {'loss': 8.0})
  assert capsys.readouterr().err.count('no space; metrics are kept') == 1
  scalars = events(tmp_path).Scalars('loss')
  assert [e.step for e in scalars] == [2, 4, 6, 8]
  assert len(lines(tmp_path)) == 4


def test_a_picture_that_cannot_be_written_is_told(tmp_path, capsys):
  (tmp_path / 'samples').write_text('in the way')
  with writer(tmp_path) as out:
    out.image(2, 'samples', b'png', (1, 1))
  assert 'step_00000002.png was not written (' in capsys.readouterr().err
