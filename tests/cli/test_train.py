"""`imagen-jax train`, in this process, as a person calls it."""

import os
import shutil
import signal
import sys
import time

import pytest

from imagen_jax.cli import main
from imagen_jax.train import advance
from imagen_jax.train import loop
from imagen_jax.train import metrics

pytestmark = pytest.mark.usefixtures('same_programs')


@pytest.fixture
def train(tiny, monkeypatch):
  """Runs the command with the tiny config; returns its exit status."""
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)

  def train(workdir, *flags, program='imagen-jax'):
    argv = ['train', '--config', tiny, '--workdir', str(workdir), *flags]
    monkeypatch.setattr(sys, 'argv', [program, *argv])
    return main.main(argv)

  return train


def test_a_finished_run_says_so(train, trained, capsys):
  assert train(trained) == 0
  assert f'trained to step 8: {trained}\n' in capsys.readouterr().err


def test_what_is_said_may_be_lost(train, tmp_path, monkeypatch):
  """A log on a full disk is no reason to end a run."""
  full = open('/dev/full', 'w', buffering=1)
  monkeypatch.setattr(sys, 'stderr', full)
  with pytest.raises(OSError):
    print('to nobody', file=sys.stderr)
  assert train(tmp_path / 'run') == 0
  assert (tmp_path / 'run' / 'checkpoints' / '8').is_dir()
  with pytest.raises(OSError):
    full.close()


@pytest.mark.parametrize(
  'program, called',
  [
    ('/a/bin/imagen-jax', '/a/bin/imagen-jax'),
    ('/a/imagen_jax/__main__.py', f'{sys.executable} -m imagen_jax'),
  ],
)
def test_ctrl_c_saves_and_says_how_to_go_on(
  program, called, train, trained, monkeypatch, tmp_path, capsys
):
  run = tmp_path / 'my run'
  shutil.copytree(trained, run)
  shutil.rmtree(run / 'checkpoints' / '8')

  advance = metrics.MetricWriter.advance

  def interrupt(self):
    advance(self)
    os.kill(os.getpid(), signal.SIGINT)

  monkeypatch.setattr(metrics.MetricWriter, 'advance', interrupt)
  flags = ('--set', 'train.keep_checkpoints=5')
  assert train(run, *flags, program=program) == 130
  said = capsys.readouterr().err
  assert 'stopped by signal 2 and saved step 5; go on with: ' in said
  assert said.endswith(f"'{run}' --set train.keep_checkpoints=5\n")
  assert f'go on with: {called} train --config ' in said
  assert (run / 'checkpoints' / '5').is_dir()


def test_a_broken_loss_is_one_line_and_its_own_status(
  train, monkeypatch, tmp_path, capsys
):
  def broken(*args, **kwargs):
    raise FloatingPointError('loss is nan at step 3')

  monkeypatch.setattr(loop, 'train', broken)
  assert train(tmp_path) == 1
  assert capsys.readouterr().err == 'imagen-jax: loss is nan at step 3\n'


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--set', 'train.sed=1'], 'train.sed: no such field; did you mean trai'),
    (['--set', 'train.seed=3'], 'train.seed: 0 -> 3; accepted: the same, an'),
    (['--set', 'text.store='], 'text.store is empty; accepted: a folder that'),
    (['--set', 'text.store=no'], 'text.store is '),
    (['--set', 'train.batch_size=4'], 'train.batch_size is 4; accepted: mul'),
    (['--process-id', '0'], '--coordinator, --num-processes and --process-id'),
  ],
)
def test_refusals_are_one_line(flags, words, train, trained, capsys):
  assert train(trained, *flags) == 2
  said = capsys.readouterr().err
  assert said.startswith('imagen-jax: ')
  assert words in said
  assert said.count('\n') == 1


def test_a_changed_config_is_allowed_by_the_flag(train, trained):
  flags = ['--set', 'data.crop=center', '--allow-config-change']
  assert train(trained, *flags) == 0


def test_a_workdir_that_cannot_be_is_one_line(train, tmp_path, capsys):
  file = tmp_path / 'file'
  file.write_text('mine')
  # The last is of a kernel that makes no folders there, for root neither.
  for workdir in (file, file / 'below', '/proc/imagen_jax_run'):
    assert train(workdir) == 2
    said = capsys.readouterr().err
    assert said.startswith(f'imagen-jax: {workdir}')
    assert said.count('\n') == 1
  assert file.read_text() == 'mine'


def test_wandb_is_handed_on_and_the_start_is_this_commands(
  train, monkeypatch, tmp_path, capsys
):
  given = []

  def watch(config, workdir, **options):
    given.append(options)
    return advance.Outcome(8, None)

  monkeypatch.setattr(loop, 'train', watch)
  before = time.time()
  assert train(tmp_path, '--wandb', 'p') == 0
  assert train(tmp_path) == 0
  assert [options['wandb'] for options in given] == ['p', None]
  assert before <= given[0]['begun'] <= time.time()
  assert train(tmp_path, '--wandb', '') == 2
  assert "--wandb is ''; accepted: the name of" in capsys.readouterr().err
