"""All shell scripts of the project: syntax, shellcheck, and how they begin."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPTS = [*sorted((ROOT / 'launch').glob('*.sh')), ROOT / '.ci/run']


def shellcheck():
  """The locked shellcheck beside this Python, or one of the machine's."""
  beside = pathlib.Path(sys.executable).parent / 'shellcheck'
  return str(beside) if beside.exists() else shutil.which('shellcheck')


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_syntax_and_strictness(script):
  subprocess.run(['bash', '-n', script], check=True)
  text = script.read_text()
  assert text.startswith('#!/usr/bin/env bash\n#')
  assert '\nset -euo pipefail\n' in text


@pytest.mark.skipif(not shellcheck(), reason='no shellcheck on this platform')
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
  done = subprocess.run([shellcheck(), script], capture_output=True, text=True)
  assert not done.stdout + done.stderr


@pytest.fixture
def clone(tmp_path):
  """A checkout with what install.sh reads, and nothing else."""
  root = tmp_path / 'clone'
  (root / 'requirements').mkdir(parents=True)
  (root / 'launch').mkdir()
  shutil.copy(ROOT / 'launch/install.sh', root / 'launch')
  for lock in ('main', 'build', 'encoder', 'tpu', 'beam'):
    (root / f'requirements/{lock}.lock').write_text('a==1\n')
  for name in ('setup.cfg', 'pyproject.toml'):
    (root / name).write_text('')
  return root


def install(root, *words, path=None, **settings):
  """Runs install.sh with no programs but coreutils and those in `path`."""
  env = {k: v for k, v in os.environ.items() if k not in ('PYTHON', 'VENV')}
  if path is not None:
    env['PATH'] = str(path)
  done = subprocess.run(
    [shutil.which('bash'), root / 'launch/install.sh', *words],
    env={**env, **settings},
    capture_output=True,
    text=True,
    timeout=120,
  )
  return done.returncode, done.stdout + done.stderr


@pytest.fixture
def programs(tmp_path):
  """A folder of programs that lacks every Python, and uv."""
  folder = tmp_path / 'programs'
  folder.mkdir()
  for (
    name
  ) in 'cat cut dirname flock grep mkdir rm sh sha256sum tail tee'.split():
    if shutil.which(name):
      (folder / name).symlink_to(shutil.which(name))
  return folder


def test_install_names_the_python_that_it_needs(clone, programs):
  words = 'install.sh: no Python 3.11, 3.12 or 3.13 was found'
  status, output = install(clone, path=programs)
  assert status == 1
  assert output == f'{words} (or install uv, which brings one)\n'

  old = programs / 'python3'
  old.write_text('#!/bin/sh\necho "is 3.10"')
  old.chmod(0o755)
  status, output = install(clone, path=programs)
  assert status == 1
  assert output.endswith('; python3 is 3.10\n')

  status, output = install(clone, path=programs, PYTHON='python9')
  assert status == 1
  assert output.startswith(f'{words} in PYTHON=python9')
  assert not (clone / '.venv').exists()


def test_install_refuses_arguments_that_it_does_not_know(clone):
  assert install(clone, '--gpu') == (
    1,
    'install.sh: unknown argument --gpu; accepted: --tpu, --beam, or none\n',
  )


def test_install_leaves_alone_what_it_did_not_make(clone):
  (clone / '.venv').mkdir()
  status, output = install(clone)
  assert status == 1
  assert output == (
    'install.sh: .venv was not made by this script; move it away, or set VENV\n'
  )
  assert list((clone / '.venv').iterdir()) == []


def test_install_does_nothing_twice_and_sees_a_changed_lock(clone, programs):
  """Stands in a pip that writes down what it is asked for."""
  python = clone / '.venv/bin/python'
  python.parent.mkdir(parents=True)
  (clone / '.venv/imagen-jax.stamp').touch()
  python.write_text(
    '#!/bin/sh\n[ "$1" = -m ] && shift && echo "$@" >> calls\nexit 0\n'
  )
  python.chmod(0o755)

  status, output = install(clone, path=programs)
  assert status == 0, output
  calls = (clone / 'calls').read_text()
  assert calls.count('--require-hashes') == 2
  assert calls.count('--no-deps') == 3
  assert '-rrequirements/main.lock -rrequirements/encoder.lock' in calls
  assert 'tpu.lock' not in calls
  assert calls.endswith('--no-build-isolation -e .\n')

  assert install(clone, path=programs) == (0, '')
  assert (clone / 'calls').read_text() == calls

  (clone / 'requirements/main.lock').write_text('# Another.')
  status, output = install(clone, path=programs)
  assert status == 0
  assert 'installed into .venv' in output
  assert (clone / 'calls').read_text() == calls * 2

  install(clone, '--tpu', path=programs)
  assert 'tpu.lock' in (clone / 'calls').read_text()


def test_beam_is_installed_over_the_lock_in_an_environment_of_its_own(
  clone, programs
):
  python = clone / '.venv-beam/bin/python'
  python.parent.mkdir(parents=True)
  (clone / '.venv-beam/imagen-jax.stamp').touch()
  python.write_text(
    '#!/bin/sh\n[ "$1" = -m ] && shift && echo "$@" >> calls\nexit 0\n'
  )
  python.chmod(0o755)
  status, output = install(clone, '--beam', path=programs)
  assert status == 0 and 'installed into .venv-beam' in output, output
  calls = (clone / 'calls').read_text().splitlines()
  assert [('main.lock' in line, 'beam.lock' in line) for line in calls] == [
    (False, False),
    (True, False),
    (False, True),
    (False, False),
  ]
  assert install(clone, '--beam', path=programs) == (0, '')
  assert not (clone / '.venv').exists()


def test_install_that_failed_is_tried_again(clone, programs):
  python = clone / '.venv/bin/python'
  python.parent.mkdir(parents=True)
  (clone / '.venv/imagen-jax.stamp').touch()
  python.write_text('#!/bin/sh\n[ "$1" = -m ] || exit 0\necho no net; exit 1\n')
  python.chmod(0o755)
  for _ in range(2):
    status, output = install(clone, path=programs)
    assert status == 1
    assert 'no net' in output
    assert output.endswith('all that was said is in .venv/install.log\n')
