"""How many threads read and decode."""

import os
import threading
import time

from batches import take
import numpy as np
import pytest

from imagen_jax import pictures
from imagen_jax.data import loader as loader_lib


@pytest.fixture
def most(monkeypatch):
  """What grows to the most pictures that were decoded at one time."""
  lock, now, most = threading.Lock(), [0], [0]
  decode = pictures.decode

  def counted(*args, **options):
    with lock:
      now[0] += 1
      most[0] = max(most[0], now[0])
    time.sleep(0.02)  # Which leaves the lock of Python's, as decoding does.
    found = decode(*args, **options)
    with lock:
      now[0] -= 1
    return found

  monkeypatch.setattr(pictures, 'decode', counted)
  return most


def decode_batch(config, most):
  with loader_lib.training_batches(config, rows=range(96), store=None) as some:
    most[0] = 0  # Tasks were tried, outside of what is measured.
    next(some)
  return most[0]


@pytest.mark.parametrize('threads', [1, 3])
def test_as_many_threads_decode_as_the_config_says(toy, twenty, most, threads):
  config = toy.config(('a', twenty), batch_size=96, threads=threads)
  assert decode_batch(config, most) == threads


def test_half_of_the_cores_decode_by_default(toy, twenty, most, monkeypatch):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(6))
  config = toy.config(('a', twenty), batch_size=96)
  assert decode_batch(config, most) == 3


def test_batches_are_the_same_with_any_number(toy, twenty):
  one, three = (
    take(toy.config(('a', twenty), batch_size=48, threads=threads), 2)
    for threads in (1, 3)
  )
  for a, b in zip(one, three):
    assert a['key'] == b['key']
    np.testing.assert_array_equal(a['image'], b['image'])
