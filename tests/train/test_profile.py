"""Traces of steps: which, where, and at a signal."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.cli import train as cli
from imagen_jax.train import profile


@pytest.fixture
def traces(monkeypatch):
  """What is asked of JAX's profiler, which takes seconds."""
  asked = []

  def start(folder):
    asked.append('start')
    inside = os.path.join(folder, 'plugins', 'profile')
    os.makedirs(inside)
    with open(os.path.join(inside, 'host.xplane.pb'), 'wb') as file:
      file.write(b'trace')

  monkeypatch.setattr(jax.profiler, 'start_trace', start)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: asked.append('stop'))
  return asked


def run(profiler, traces, steps, at=()):
  """Takes steps; returns which of them a trace has."""
  traced = []
  for step in steps:
    if step in at:
      os.kill(os.getpid(), signal.SIGUSR1)
    profiler.before(step)
    if traces.count('start') > traces.count('stop'):
      traced.append(step)
    profiler.after(step, jnp.ones(()))
  return traced


def test_the_steps_that_are_asked_for(traces, tmp_path):
  said = []
  with profile.Profiler(str(tmp_path), (3, 5), said.append) as profiler:
    assert run(profiler, traces, range(1, 9)) == [3, 4, 5]
  assert traces == ['start', 'stop']
  folder = tmp_path / 'profile' / 'steps_00000003_00000005'
  assert (folder / 'plugins/profile/host.xplane.pb').read_bytes() == b'trace'
  assert said == [f'trace written: {folder} (xprof shows it)']


def test_a_run_resumed_within_them_has_the_rest(traces, tmp_path):
  with profile.Profiler(str(tmp_path), (3, 5), print) as profiler:
    assert run(profiler, traces, range(5, 9)) == [5]
  with profile.Profiler(str(tmp_path), (3, 5), print) as profiler:
    assert run(profiler, traces, range(6, 9)) == []


def test_a_signal_asks_for_five_more(traces, tmp_path):
  before = signal.getsignal(signal.SIGUSR1)
  with profile.Profiler(str(tmp_path), None, print) as profiler:
    traced = run(profiler, traces, range(1, 20), at=(4, 6, 12))
  # The one at step 6 comes while another is written, and waits.
  assert traced == [*range(4, 9), *range(9, 14), *range(14, 19)]
  assert signal.getsignal(signal.SIGUSR1) is before


def test_a_run_that_ends_leaves_what_it_has(traces, tmp_path):
  with pytest.raises(RuntimeError):
    with profile.Profiler(str(tmp_path), (2, 9), print) as profiler:
      profiler.before(2)
      raise RuntimeError
  assert traces == ['start', 'stop']
  assert (tmp_path / 'profile' / 'steps_00000002_00000009').is_dir()


def test_a_trace_is_one(tmp_path):
  """By JAX's own profiler, once."""
  with profile.Profiler(str(tmp_path), (1, 1), print) as profiler:
    profiler.before(1)
    profiler.after(1, jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
  (trace,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  assert trace.stat().st_size


@pytest.mark.parametrize('text', ['', '3', '3:', '5:3', '0:2', 'a:b', '1:2:3'])
def test_refuses_what_are_no_steps(text):
  words = rf"--profile-steps is '{text}'; accepted: FIRST:LAST, such as 10:15"
  with pytest.raises(ValueError, match=words):
    cli._profile_steps(text)
  assert cli._profile_steps('3:3') == (3, 3)
  assert cli._profile_steps(None) is None
