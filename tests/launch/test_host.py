"""launch/host.sh, run on this machine as a pod would run it on a host."""

import os
import subprocess
import sys
import time

import pytest

# Ends as a training run does: it saves when told to stop, and says so.
JOB = """
import os, signal, sys, time
def stop(*_):
  print('saved', flush=True)
  sys.exit(3)
signal.signal(signal.SIGTERM, stop)
print(sys.argv[1:], os.path.basename(os.getcwd()), flush=True)
time.sleep(600)
"""


@pytest.fixture
def host(repo, tmp_path):
  """Runs a command of host.sh in a home folder of its own."""
  env = {**os.environ, 'HOME': str(tmp_path), 'RESTART_SECONDS': '0.2'}

  def run(*words, status=0):
    done = subprocess.run(
      ['bash', repo / 'launch/host.sh', *words],
      env=env,
      capture_output=True,
      text=True,
      timeout=120,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr

  yield run
  run('stop')


def wait_for(condition):
  end = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < end, 'it did not happen in a minute'
    time.sleep(0.05)


def test_a_job_outlives_its_connection_and_stops_when_told(
  host, repo, tmp_path
):
  assert 'no job yet' in host('status')
  assert 'no job is running' in host('stop')

  host('start', sys.executable, '-c', JOB, 'a  b', '$HOME "c"')
  log = tmp_path / 'imagen_jax_job/log'
  wait_for(lambda: log.exists() and log.read_text().endswith('\n'))
  # The arguments arrive as they were, and the tree is the working folder.
  assert log.read_text() == f"['a  b', '$HOME \"c\"'] {repo.name}\n"
  assert ': running: ' in host('status')

  assert 'a job is running' in host('idle', status=1)
  assert 'a job is running' in host('start', 'true', status=1)

  assert 'told to stop' in host('stop')
  wait_for(lambda: 'ended with status 3: saved' in host('status'))
  assert host('idle') == ''


def test_a_new_job_keeps_the_last_ones_log(host, tmp_path):
  job = tmp_path / 'imagen_jax_job'
  for word, status in (('first', 0), ('second', 4)):
    host('start', 'bash', '-c', f'echo {word}; exit {status}')
    wait_for(lambda: (job / 'exit').exists())
    assert (job / 'exit').read_text() == f'{status}\n'
    assert f'ended with status {status}: {word}' in host('status')
  (old,) = job.glob('log.*')
  assert old.read_text() == 'first\n'


# Ends with each of some statuses in turn, then with 0.
TURNS = """
next=$(head -n 1 turns)
sed -i 1d turns
echo "turn $next"
exit "${next:-0}"
"""


@pytest.mark.parametrize(
  'restarts, turns, expected',
  [
    (5, [75, 143, 137, 134], [75, 143, 137, 134, 0]),
    (1, [75, 75, 75], [75, 75]),
    (0, [75], [75]),
    # Again would be no better: a mistake, a broken loss.
    (5, [2], [2]),
    (5, [75, 1], [75, 1]),
  ],
)
def test_a_job_is_run_again_where_that_helps(
  restarts, turns, expected, host, tmp_path
):
  job = tmp_path / 'imagen_jax_job'
  file = tmp_path / 'turns'
  file.write_text(''.join(f'{turn}\n' for turn in turns))
  code = TURNS.replace('turns', str(file))
  host('start', '--restart', str(restarts), 'bash', '-c', code)
  wait_for(lambda: (job / 'exit').exists())
  assert (job / 'exit').read_text() == f'{expected[-1]}\n'
  said = (job / 'log').read_text().splitlines()
  found = [line for line in said if line.startswith('turn')]
  assert len(found) == len(expected)
  assert len(said) == 2 * len(expected) - 1


def test_a_job_that_was_told_to_stop_is_not_run_again(host, tmp_path):
  job = tmp_path / 'imagen_jax_job'
  code = JOB.replace('sys.exit(3)', 'sys.exit(143)')
  host('start', '--restart', '9', sys.executable, '-c', code)
  wait_for(lambda: (job / 'log').read_text().endswith('\n'))
  host('stop')
  wait_for(lambda: (job / 'exit').exists())
  assert (job / 'exit').read_text() == '143\n'
  assert (job / 'log').read_text().count('saved') == 1


def test_a_host_that_went_down_is_told_from_one_that_ended(host, tmp_path):
  job = tmp_path / 'imagen_jax_job'
  job.mkdir()
  # Above what Linux gives out, so that it is nobody's.
  (job / 'pid').write_text('4194305\n')
  assert 'died without a word' in host('status')


def test_an_unknown_command_is_refused(host):
  assert "no command 'x'" in host('x', status=2)
