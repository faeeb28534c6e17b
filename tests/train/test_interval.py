"""What a line of metrics says of the steps before it."""

import json
import math

import jax.numpy as jnp
import numpy as np

from imagen_jax.train import interval as interval_lib


def step(loss, **others):
  values = {'loss': loss, 'grad_norm': 1.0, 'loss_t0': loss, **others}
  return {name: jnp.float32(value) for name, value in values.items()}


def test_an_interval_gives_means():
  interval = interval_lib.Interval(batch_size=4)
  for loss in (1.0, 2.0, 6.0):
    interval.add(step(loss))
  values = interval.flush()
  assert values['loss'] == 3.0
  assert values['grad_norm'] == 1.0
  assert values['images_per_second'] > 0
  interval.add(step(5.0))
  assert interval.flush()['loss'] == 5.0


def test_a_bucket_is_the_mean_of_the_steps_that_drew_one():
  interval = interval_lib.Interval(batch_size=4)
  interval.add(step(1.0, loss_t0=math.nan, loss_t1=math.nan))
  interval.add(step(1.0, loss_t0=3.0, loss_t1=math.nan))
  values = interval.flush()
  assert values['loss_t0'] == 3.0
  assert math.isnan(values['loss_t1'])


def test_an_interval_goes_on_where_it_was_saved(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(interval_lib.time, 'perf_counter', lambda: now[0])
  losses = np.random.default_rng(0).normal(size=5).astype(np.float32)
  whole = interval_lib.Interval(batch_size=4)
  for loss in losses:
    whole.add(step(loss))
  first = interval_lib.Interval(batch_size=4)
  for loss in losses[:3]:
    first.add(step(loss))
  kept = json.loads(json.dumps(first.state()))
  second = interval_lib.Interval(4, kept)
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

  interval = interval_lib.Interval(batch_size=4)
  for _ in range(3):
    interval.add({'loss': OnDevice(), 'grad_norm': OnDevice()})
  assert interval.state() == [{'loss': 2.0, 'grad_norm': 2.0}] * 3
  assert events == ['asked'] * 6 + ['waited'] * 6
  # What was fetched stays.
  assert interval.flush()['loss'] == 2.0
  assert len(events) == 12
