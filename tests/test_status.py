"""Where a run stands, as a person is told."""

import json
import os
import re
import shutil
import time

import pytest

from imagen_jax import status
from imagen_jax.cli import main

NOW = 10_000.0


@pytest.fixture
def workdir(tmp_path):
  """A run of 1000 steps that has made 300, one a second, until now."""
  config = {
    'stage': {'name': 'base64'},
    'train': {'num_steps': 1000, 'log_every': 10},
  }
  (tmp_path / 'config.json').write_text(json.dumps(config))
  lines = [
    {'step': n, 'time': NOW - 300 + n, 'loss': 300.0 / n, 'bad_records': 2}
    for n in range(10, 301, 10)
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (tmp_path / 'metrics.jsonl').write_text(text + '{"step": 310, "lo')
  for step in (100, 200):
    folder = tmp_path / 'checkpoints' / str(step)
    folder.mkdir(parents=True)
    (folder / '_CHECKPOINT_METADATA').write_text('')
    os.utime(folder / '_CHECKPOINT_METADATA', (0, NOW - 300 + step))
  (tmp_path / 'checkpoints' / '300.orbax-checkpoint-tmp').mkdir()
  return tmp_path


def test_a_run_that_goes_on(workdir):
  found = status.read(str(workdir), NOW)
  assert (found.step, found.num_steps, found.running) == (300, 1000, True)
  assert found.rate == pytest.approx(1)
  assert found.checkpoints == [100, 200]
  assert found.saved == pytest.approx(100)
  assert len(found.losses) == 30
  lines = status.report(found).splitlines()
  assert lines == [
    'base64: step 300 of 1,000 (30.0%), 1 steps/s, 11 min to go',
    'checkpoints: 100, 200; newest 100 s ago',
    f'loss: █{lines[2][7:]}',
    '      30 at step 10 to 1 at step 300',
    'faults: bad records 2',
  ]
  assert len(lines[2]) == len('loss: ') + 30
  assert lines[2].endswith('▁')


def test_a_run_that_says_nothing(workdir):
  found = status.read(str(workdir), NOW + 7200)
  assert not found.running
  assert ', silent for 2 h 0 min\n' in status.report(found)
  # A minute is not long, however short the steps are.
  assert status.read(str(workdir), NOW + 59).running
  assert not status.read(str(workdir), NOW + 61).running


def test_what_went_wrong_is_told(workdir):
  (workdir / 'damaged' / '200').mkdir(parents=True)
  (workdir / 'stacks').mkdir()
  for host in '01':
    (workdir / 'stacks' / f'{host}.txt').write_text('')
  text = status.report(status.read(str(workdir), NOW))
  assert text.endswith(
    'faults: bad records 2, damaged checkpoints 1 (200), '
    'stacks of steps that did not end 2 (0.txt, 1.txt)'
  )


def test_steps_that_changed_nothing_are_told(workdir):
  with open(workdir / 'metrics.jsonl', 'a') as file:
    file.write('\n')  # After the line that was cut short.
    for step in (310, 320):
      line = {'step': step, 'time': NOW, 'loss': 1.0, 'skipped_steps': 2}
      file.write(json.dumps(line) + '\n')
  text = status.report(status.read(str(workdir), NOW))
  assert text.endswith('faults: steps skipped of late 4')


def test_a_newest_checkpoint_that_lacks_files_is_told(workdir):
  (workdir / 'checkpoints' / '200' / '_CHECKPOINT_METADATA').unlink()
  text = status.report(status.read(str(workdir), NOW))
  assert 'checkpoints: 100, 200; newest damaged\n' in text


def test_where_the_time_went_is_told(workdir):
  line = {
    'step': 310,
    'time': NOW,
    'loss': 1.0,
    'images_per_second': 1024.0,
    'images_per_second_per_chip': 4.0,
    'mfu': 0.4321,
    'hbm_peak_gib': 30.5,
    'goodput': 0.75,
    'productive_seconds': 7500.0,
    'lost_seconds/compile': 500.0,
    'lost_seconds/between': 1999.0,
    'lost_seconds/data': 1.0,
    'lost_seconds/save': 0.0,
    'resumes': 3,
  }
  with (workdir / 'metrics.jsonl').open('w') as file:
    file.write(json.dumps(line) + '\n')
  assert status.report(status.read(str(workdir), NOW)).splitlines()[-3:] == [
    (
      'last line: images_per_second 1024, images_per_second_per_chip 4, '
      'mfu 0.4321, hbm_peak_gib 30.5'
    ),
    'goodput: 75.0% of 2 h 46 min; lost: between 20.0%, compile 5.0%',
    'faults: resumes 3',
  ]


def test_a_run_that_has_just_begun(workdir):
  (workdir / 'metrics.jsonl').unlink()
  shutil.rmtree(workdir / 'checkpoints')
  text = status.report(status.read(str(workdir), NOW))
  assert text == (
    'base64: step 0 of 1,000 (0.0%), no metrics yet\ncheckpoints: none\n'
    'faults: none'
  )


def test_a_run_that_is_over(workdir):
  with (workdir / 'metrics.jsonl').open('w') as file:
    file.write('{"step": 1000, "time": 5.0, "loss": 1.0}\n')
  text = status.report(status.read(str(workdir), NOW))
  assert text.startswith('base64: step 1,000 of 1,000 (100.0%), finished\n')


def test_lines_of_before_the_time_was_written(workdir):
  (workdir / 'metrics.jsonl').write_text('{"step": 10, "loss": 1.0}\n' * 3)
  found = status.read(str(workdir), NOW)
  assert (found.rate, found.age, found.running) == (None, None, False)
  assert 'no metrics yet' not in status.report(found).splitlines()[1]


def test_the_end_of_a_long_file_is_read(workdir, monkeypatch):
  monkeypatch.setattr(status, '_TAIL', 200)
  found = status.read(str(workdir), NOW)
  assert found.step == 300
  assert 1 <= len(found.losses) <= 3


def test_a_curve_is_of_means():
  losses = [(n, float(n // 10)) for n in range(80)]
  assert status.curve(losses, 8) == '▁▂▃▄▅▆▇█'
  assert status.curve(losses[:3], 8) == '▁▁▁'
  assert status.curve([]) == ''


@pytest.mark.parametrize(
  'seconds, text',
  [
    (-1, '0 s'),
    (119, '119 s'),
    (120, '2 min'),
    (3600, '1 h 0 min'),
    (47 * 3600, '47 h 0 min'),
    (50 * 3600, '2 d 2 h'),
  ],
)
def test_durations(seconds, text):
  assert status.duration(seconds) == text


def test_the_command(workdir, capsys, tmp_path):
  assert main.main(['status', str(workdir)]) == 0
  assert capsys.readouterr().out.startswith('base64: step 300 of 1,000')
  assert main.main(['status', str(tmp_path / 'none')]) == 2
  words = 'which has no config.json; accepted: the --workdir of a run that has'
  assert words in capsys.readouterr().err
  assert main.main(['status', str(workdir), '--watch', '0']) == 2
  assert '--watch is 0.0; accepted: seconds above' in capsys.readouterr().err


def test_it_is_printed_anew_until_ctrl_c(workdir, capsys, monkeypatch):
  slept = []

  def sleep(seconds):
    slept.append(seconds)
    with (workdir / 'metrics.jsonl').open('a') as file:
      file.write('ss": 1}\n' + json.dumps({'step': 320, 'time': NOW}) + '\n')
    if len(slept) >= 2:
      raise KeyboardInterrupt

  monkeypatch.setattr(time, 'sleep', sleep)
  assert main.main(['status', str(workdir), '--watch']) == 0
  out = capsys.readouterr().out
  assert slept == [10, 10]
  assert 'step 300 of 1,000' in out and 'step 320 of 1,000' in out
  assert main.main(['status', str(workdir), '--watch', '3']) == 0
  assert slept[2:] == [3]


def test_a_real_run(trained, capsys):
  assert main.main(['status', str(trained)]) == 0
  out = capsys.readouterr().out
  assert out.startswith('tiny16: step 8 of 8 (100.0%), finished\n')
  assert 'checkpoints: 4, 8; newest' in out
  assert 'loss: ' in out
  assert 'images_seen 64' in out
  assert re.search(r'\ngoodput: [\d.]+% of .*; lost: .*compile', out)
  assert 'faults: none' in out
