"""Which runners a build takes, and what it says where one fails."""

import importlib.util

import pytest

from imagen_jax.prepare import runner as runner_lib


def test_without_beam_it_is_told_how_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'imagen-jax\[beam\]'"):
    runner_lib.check(runner_lib.Runner())


@pytest.mark.parametrize(
  'runner, words',
  [
    (
      runner_lib.Runner('Nowhere'),
      "--runner is 'Nowhere'; accepted: one that Beam has here, of .*Flink",
    ),
    (
      runner_lib.Runner(flags=('--direct_num_workers=x',)),
      r"--beam-option is \['--direct_num_workers=x'\]; accepted: NAME=VALUE",
    ),
  ],
)
def test_what_beam_does_not_know_is_refused(runner, words):
  pytest.importorskip('apache_beam', reason='Apache Beam is not installed')
  with pytest.raises(ValueError, match=words):
    runner_lib.check(runner)


def test_the_last_line_tells_why():
  error = RuntimeError(
    'Traceback (most recent call last):\n  File "x"\nValueError: a; accepted: b'
    " [while running 'scan']\n\n"
  )
  assert runner_lib._reason(error).startswith('ValueError: a; accepted: b')
  assert runner_lib._reason(KeyError()) == 'KeyError'
