"""The quickstart's script, rehearsed, and the commands that it prints."""

import json
import os
import pathlib
import runpy
import shlex
import subprocess
import sys

import fault_run
import pytest

from imagen_jax import curves

VENV = pathlib.Path(sys.prefix)
# The script installs where nothing has been installed by other means.
INSTALLED = (VENV / 'imagen-jax.stamp').exists()


def quickstart(repo, *words):
  return subprocess.run(
    ['bash', repo / 'launch/quickstart.sh', *words],
    env={**os.environ, 'VENV': str(VENV)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.mark.parametrize(
  'words, told',
  [
    (['--fast'], 'unknown argument --fast; accepted: --full'),
    (['--text-encoder', 'clip'], "is 'clip'; accepted: minilm_l6"),
  ],
)
def test_refuses(repo, words, told):
  done = quickstart(repo, *words)
  assert done.returncode == 2
  assert told in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason='not in an environment of install.sh')
def test_a_rehearsal_and_the_commands_that_it_prints(repo, tmp_path):
  done = quickstart(repo, '--rehearsal', '--out', tmp_path)
  assert done.returncode == 0, done.stdout
  for name in ('grid/grid.png', 'samples/grid.png', 'export/sr/manifest.json'):
    assert (tmp_path / name).exists()
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert scores['shapes']['pictures'] == scores['openmoji']['pictures'] == 4

  _, printed = done.stdout.split('on the PATH:\n')
  commands = printed.splitlines()
  assert [line.split()[1] for line in commands] == [
    *('data', 'encode', 'train', 'export', 'sample')
  ]
  path = f'{VENV / "bin"}:{os.environ["PATH"]}'
  first, *others = commands
  subprocess.run(
    ['bash', '-c', first],
    cwd=repo,
    env={**os.environ, 'PATH': path},
    check=True,
  )
  # As a shell would read them, and begun in a tenth of the time.
  context, there = fault_run.context(), f'import os\nos.chdir({str(repo)!r})'
  for command in others:
    program, *argv = shlex.split(command)
    assert program == 'imagen-jax'
    log = tmp_path / f'{argv[0]}.log'
    process = fault_run.start(context, argv, str(log), there)
    process.join()
    assert process.exitcode == 0, log.read_text()
  assert (tmp_path / 'mine/samples/grid.png').exists()

  # And its curves, with scores along the base, which is trained once more.
  script = runpy.run_path(str(repo / 'benchmarks' / 'curves.py'))
  base, other = script['collect'](tmp_path, tmp_path / 'again', 3, 4)
  assert [line['step'] for line in base.scores] == [3, 6]
  for line in base.scores:
    assert {'shapes', 'openmoji'} == {*line['scores']}
  assert [line['step'] for line in other.losses] == list(range(1, 7))
  again = curves.of_run(str(tmp_path / 'again' / 'base'), '--workdir')
  assert again.losses[0]['loss'] == pytest.approx(base.losses[0]['loss'])
  assert not other.scores
