"""Traces of steps: which, where, and at a signal."""

import contextlib
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


@pytest.fixture
def opened(tmp_path):
  """A `Profiler` of a run that heeds the signal, by its steps."""

  @contextlib.contextmanager
  def open_it(steps, say=print):
    with profile.Asker() as asker:
      with profile.Profiler(str(tmp_path), steps, say, asker) as profiler:
        yield profiler

  return open_it


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


def test_the_steps_that_are_asked_for(traces, opened, tmp_path):
  said = []
  with opened((3, 5), said.append) as profiler:
    assert run(profiler, traces, range(1, 9)) == [3, 4, 5]
  assert traces == ['start', 'stop']
  folder = tmp_path / 'profile' / 'steps_00000003_00000005'
  assert (folder / 'plugins/profile/host.xplane.pb').read_bytes() == b'trace'
  assert said == [f'trace written: {folder} (xprof shows it)']


def test_a_run_resumed_within_them_has_the_rest(traces, opened):
  with opened((3, 5)) as profiler:
    assert run(profiler, traces, range(5, 9)) == [5]
  with opened((3, 5)) as profiler:
    assert run(profiler, traces, range(6, 9)) == []


def test_a_signal_asks_for_five_more(traces, opened):
  before = signal.getsignal(signal.SIGUSR1)
  with opened(None) as profiler:
    traced = run(profiler, traces, range(1, 20), at=(4, 6, 12))
  # The one at step 6 comes while another is written, and waits.
  assert traced == [*range(4, 9), *range(9, 14), *range(14, 19)]
  assert signal.getsignal(signal.SIGUSR1) is before


def test_a_run_that_ends_leaves_what_it_has(traces, opened, tmp_path):
  with pytest.raises(RuntimeError):
    with opened((2, 9)) as profiler:
      profiler.before(2)
      raise RuntimeError
  assert traces == ['start', 'stop']
  assert (tmp_path / 'profile' / 'steps_00000002_00000009').is_dir()


def test_a_trace_is_one(opened, tmp_path):
  """By JAX's own profiler, once."""
  with opened((1, 1)) as profiler:
    profiler.before(1)
    profiler.after(1, jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
  (trace,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  assert trace.stat().st_size


def test_a_signal_before_the_steps_is_remembered(traces, tmp_path):
  """As while a run compiles, or goes back to a checkpoint."""
  with profile.Asker() as asker:
    os.kill(os.getpid(), signal.SIGUSR1)
    with profile.Profiler(str(tmp_path), None, print, asker) as profiler:
      assert run(profiler, traces, range(1, 9)) == [1, 2, 3, 4, 5]
    os.kill(os.getpid(), signal.SIGUSR1)
    with profile.Profiler(str(tmp_path), None, print, asker) as profiler:
      assert run(profiler, traces, range(3, 5)) == [3, 4]


def test_a_trace_that_cannot_be_begun_ends_nothing(opened, monkeypatch, caplog):
  asked = []

  def start(folder):
    asked.append(folder)
    raise RuntimeError('a trace is being made already')

  monkeypatch.setattr(jax.profiler, 'start_trace', start)
  with opened((2, 9), pytest.fail) as profiler:
    run(profiler, [], range(1, 12))
  assert len(asked) == 1
  assert 'no trace was written: a trace is being made' in caplog.text


def test_a_trace_that_cannot_be_written_ends_nothing(
  traces, opened, tmp_path, caplog
):
  (tmp_path / 'profile').write_text('in the way')
  with opened((2, 3), pytest.fail) as profiler:
    run(profiler, traces, range(1, 5))
    assert 'no trace was written: --workdir' in caplog.text
    (tmp_path / 'profile').unlink()
    os.kill(os.getpid(), signal.SIGUSR1)
    profiler._say = print
    assert run(profiler, traces, range(5, 7)) == [5, 6]
  assert (tmp_path / 'profile' / 'steps_00000005_00000009').is_dir()


@pytest.mark.parametrize('text', ['', '3', '3:', '5:3', '0:2', 'a:b', '1:2:3'])
def test_refuses_what_are_no_steps(text):
  words = rf"--profile-steps is '{text}'; accepted: FIRST:LAST, such as 10:15"
  with pytest.raises(ValueError, match=words):
    cli._profile_steps(text)
  assert cli._profile_steps('3:3') == (3, 3)
  assert cli._profile_steps(None) is None
