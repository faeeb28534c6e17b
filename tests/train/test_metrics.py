"""Where metrics go, and what a resumed run makes of the files it finds."""

import json
import math
import time

import jax.numpy as jnp
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
  return [json.loads(line) for line in text.splitlines()]


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


def step(loss, **others):
  values = {'loss': loss, 'grad_norm': 1.0, 'loss_t0': loss, **others}
  return {name: jnp.float32(value) for name, value in values.items()}


def test_an_interval_gives_means():
  interval = metrics_lib.Interval(batch_size=4)
  for loss in (1.0, 2.0, 6.0):
    interval.add(step(loss))
  values = interval.flush()
  assert values['loss'] == 3.0
  assert values['grad_norm'] == 1.0
  assert values['images_per_second'] > 0
  interval.add(step(5.0))
  assert interval.flush()['loss'] == 5.0


def test_a_bucket_is_the_mean_of_the_steps_that_drew_one():
  interval = metrics_lib.Interval(batch_size=4)
  interval.add(step(1.0, loss_t0=math.nan, loss_t1=math.nan))
  interval.add(step(1.0, loss_t0=3.0, loss_t1=math.nan))
  values = interval.flush()
  assert values['loss_t0'] == 3.0
  assert math.isnan(values['loss_t1'])


def test_an_interval_goes_on_where_it_was_saved(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(metrics_lib.time, 'perf_counter', lambda: now[0])
  losses = np.random.default_rng(0).normal(size=5).astype(np.float32)
  whole = metrics_lib.Interval(batch_size=4)
  for loss in losses:
    whole.add(step(loss))
  first = metrics_lib.Interval(batch_size=4)
  for loss in losses[:3]:
    first.add(step(loss))
  kept = json.loads(json.dumps(first.state()))
  second = metrics_lib.Interval(4, kept)
  for loss in losses[3:]:
    second.add(step(loss))
  now[0] = 2.0
  expected, values = whole.flush(), second.flush()
  # The rate is of the steps that this process made: 2 of 4 images in 2 s.
  assert values.pop('images_per_second') == 4
  assert expected.pop('images_per_second') == 10
  assert values == expected


def test_numbers_are_asked_for_before_any_is_waited_for():
  events = []

  class OnDevice:
    """A number that tells what is done to it."""

    def copy_to_host_async(self):
      events.append('asked')

    def __array__(self, *args, **kwargs):
      events.append('waited')
      return np.array(2.0, np.float32)

  interval = metrics_lib.Interval(batch_size=4)
  for _ in range(3):
    interval.add({'loss': OnDevice(), 'grad_norm': OnDevice()})
  assert interval.state() == [{'loss': 2.0, 'grad_norm': 2.0}] * 3
  assert events == ['asked'] * 6 + ['waited'] * 6
  # What was fetched stays.
  assert interval.flush()['loss'] == 2.0
  assert len(events) == 12


@pytest.mark.parametrize(
  'bad, expected',
  [
    ({}, None),
    ({1: {'loss': math.inf}}, (2, 'loss', math.inf)),
    ({3: {'grad_norm': -math.inf}}, (0, 'grad_norm', -math.inf)),
    ({0: {'loss': math.inf}, 2: {'loss': math.inf}}, (3, 'loss', math.inf)),
    ({2: {'loss_t0': math.nan}}, None),
  ],
)
def test_the_first_bad_step_is_named(bad, expected):
  interval = metrics_lib.Interval(batch_size=4)
  for number in range(4):
    interval.add(step(1.0) | bad.get(number, {}))
  assert interval.first_bad() == expected


def test_a_loss_that_is_no_number_is_bad():
  interval = metrics_lib.Interval(batch_size=4)
  interval.add(step(math.nan))
  ago, name, value = interval.first_bad()
  assert (ago, name) == (0, 'loss')
  assert math.isnan(value)
