"""A run that does not move says where it stands; one that does, nothing."""

import threading
import time

import pytest

from imagen_jax.train import watchdog


def waited_for(path, seconds=20):
  """Waits until there is a whole file; returns its text."""
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    if path.exists() and path.read_text().endswith('\n'):
      return path.read_text()
    time.sleep(0.02)
  pytest.fail(f'no {path}')


def test_all_threads_are_told_where_no_step_ends(tmp_path, capfd):
  done = threading.Event()

  def somebody_who_waits():
    done.wait()

  other = threading.Thread(target=somebody_who_waits)
  other.start()
  try:
    with watchdog.Watchdog(str(tmp_path), 3, 5.0, floor=0.2) as watched:
      watched.beat(41)
      text = waited_for(tmp_path / 'stacks' / '00003-00000041.txt')
  finally:
    done.set()
    other.join()
  assert text.startswith('imagen-jax: host 3: no step has ended for 0 s')
  assert 'after step 41; the stacks' in text
  assert 'somebody_who_waits' in text
  assert 'waited_for' in text
  assert 'somebody_who_waits' in capfd.readouterr().err


def test_a_start_that_hangs_is_told(tmp_path):
  with watchdog.Watchdog(str(tmp_path), 0, 5.0, floor=0.1):
    text = waited_for(tmp_path / 'stacks' / '00000-00000000.txt')
  assert 'after the start' in text


def test_steps_that_end_are_no_matter(tmp_path, capfd):
  with watchdog.Watchdog(str(tmp_path), 0, 5.0, floor=1.0) as watched:
    for step in range(30):
      watched.beat(step)
      time.sleep(0.05)
  assert not (tmp_path / 'stacks').exists()
  assert not capfd.readouterr().err


def test_goes_by_the_median_of_steps(tmp_path, monkeypatch):
  watched = watchdog.Watchdog(str(tmp_path), 0, 10.0, floor=60.0)
  assert watched.limit() == 60
  now = [100.0]
  monkeypatch.setattr(watchdog.time, 'monotonic', lambda: now[0])
  # The first was compiled for an hour, one waited for storage.
  for step, seconds in enumerate((3600, 20, 20, 500, 21, 19)):
    now[0] += seconds
    watched.beat(step)
  assert watched.limit() == 200


def test_the_more_it_hangs_the_less_it_says(tmp_path, capfd):
  with watchdog.Watchdog(str(tmp_path), 0, 1.0, floor=0.1):
    time.sleep(1.2)
  # After 0.1, 0.2, 0.4 and 0.8 seconds.
  assert 2 <= capfd.readouterr().err.count('no step has ended') <= 4


def test_may_be_off(tmp_path, capfd):
  with watchdog.Watchdog(str(tmp_path), 0, 0, floor=0.01):
    time.sleep(0.1)
  assert not capfd.readouterr().err


def test_a_workdir_that_cannot_be_written_is_told(tmp_path, capfd):
  (tmp_path / 'stacks').write_text('in the way')
  with watchdog.Watchdog(str(tmp_path), 0, 1.0, floor=0.05):
    time.sleep(0.3)
  assert 'stacks' in capfd.readouterr().err.splitlines()[-1]
