"""Signals on one host; several hosts are in test_hosts.py."""

import os
import signal

import pytest

from imagen_jax.train import stopping


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_old_handler_comes_back(number):
  seen = []
  old = signal.signal(number, lambda *_: seen.append('old'))
  try:
    with stopping.Stopper() as stopper:
      assert stopper.should_stop() is None
      os.kill(os.getpid(), number)
      assert stopper.should_stop() == number
      assert stopper.should_stop() == number
    assert not seen
    os.kill(os.getpid(), number)
    assert seen == ['old']
  finally:
    signal.signal(number, old)


def test_ctrl_c_says_what_it_does_and_a_second_one_stops_at_once(capfd):
  with stopping.Stopper() as stopper:
    os.kill(os.getpid(), signal.SIGINT)
    assert stopper.should_stop() == signal.SIGINT
    assert 'stopping after this step; Ctrl-C again' in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_changes_nothing():
  with stopping.Stopper() as stopper:
    for _ in range(2):
      os.kill(os.getpid(), signal.SIGTERM)
    assert stopper.should_stop() == signal.SIGTERM
