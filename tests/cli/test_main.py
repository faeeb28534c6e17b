"""The dispatcher: what it imports, what it prints, and with which status."""

import argparse
import importlib
import resource
import subprocess
import sys
import types

import pytest

import imagen_jax
from imagen_jax.cli import main
from imagen_jax.cli import mistakes

HEAVY = ('jax', 'flax', 'numpy', 'tensorflow', 'seqio', 'orbax', 'PIL')


def command(run):
  """A module of the protocol whose `main` is `run`."""

  def add_arguments(parser):
    parser.add_argument('--number', type=int, default=1)

  return types.SimpleNamespace(
    HELP=main.COMMANDS['train'], add_arguments=add_arguments, main=run
  )


@pytest.fixture
def train_is(monkeypatch):
  """Puts a function in the place of `imagen-jax train`."""
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)

  def put(run):
    name = 'imagen_jax.cli.train'
    monkeypatch.setitem(sys.modules, name, command(run))

  return put


def raising(error):
  """A function of this package, as far as its traceback tells."""
  code = compile(
    'def run(args):\n  raise error', f'{mistakes._PACKAGE}/x.py', 'exec'
  )
  scope = {'error': error}
  exec(code, scope)
  return scope['run']


def children_seconds():
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize('name', main.COMMANDS)
def test_table_agrees_with_the_module(name):
  module = importlib.import_module(f'imagen_jax.cli.{name}')
  assert main.COMMANDS[name] == module.HELP
  parser = argparse.ArgumentParser()
  module.add_arguments(parser)
  assert parser.format_help()
  assert callable(module.main)


@pytest.mark.parametrize('name', [None, *main.COMMANDS])
def test_help_starts_fast_and_light(name):
  arguments = ['--help'] if name is None else [name, '--help']
  code = f"""
import sys
try:
  from imagen_jax.cli import main
  main.main({arguments!r})
except SystemExit as end:
  assert not end.code
heavy = sorted(set({HEAVY!r}) & set(sys.modules))
assert not heavy, heavy
"""
  start = children_seconds()
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  seconds = children_seconds() - start
  assert done.returncode == 0, done.stderr
  summary = main.COMMANDS.get(name, 'imagen-jax COMMAND')
  assert summary[1:] in done.stdout
  # A person's patience; of the processor's time, which a busy machine does not
  # stretch.
  assert seconds < 2, f'{seconds:.1f} s'


def test_help_lists_every_command(capsys):
  with pytest.raises(SystemExit) as end:
    main.main(['--help'])
  assert end.value.code == 0
  shown = capsys.readouterr().out
  for name, summary in main.COMMANDS.items():
    assert name in shown
    assert summary in shown


def test_version(capsys):
  with pytest.raises(SystemExit) as end:
    main.main(['--version'])
  assert end.value.code == 0
  assert capsys.readouterr().out == f'imagen-jax {imagen_jax.__version__}\n'


def test_python_m_is_the_same_program():
  done = subprocess.run(
    [sys.executable, '-m', 'imagen_jax', '--version'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == f'imagen-jax {imagen_jax.__version__}\n'


def test_arguments_and_status_go_through(train_is):
  seen = []

  def run(args):
    seen.append(args.number)
    return 7

  train_is(run)
  assert main.main(['train', '--number', '3']) == 7
  assert seen == [3]


def test_no_command_is_refused(capsys):
  with pytest.raises(SystemExit) as end:
    main.main([])
  assert end.value.code == 2
  assert 'required: COMMAND' in capsys.readouterr().err


@pytest.mark.parametrize(
  'name, words',
  [
    ('trian', "imagen-jax: no command 'trian'; did you mean train?\n"),
    ('zzz', f'accepted: {", ".join(main.COMMANDS)}\n'),
  ],
)
def test_an_unknown_command_is_refused(name, words, capsys):
  assert main.main([name]) == 2
  assert capsys.readouterr().err.endswith(words)


@pytest.mark.parametrize(
  'error, words',
  [
    (ValueError('a field\n is 3; accepted: 4'), 'a field is 3; accepted: 4'),
    (
      FileNotFoundError(2, 'No such file or directory', 'x/y'),
      'x/y: No such file or directory',
    ),
    (PermissionError(13, 'Permission denied', 'z'), 'z: Permission denied'),
  ],
)
def test_a_persons_mistake_is_one_line(error, words, train_is, capsys):
  train_is(raising(error))
  assert main.main(['train']) == 2
  assert capsys.readouterr().err == f'imagen-jax: {words}\n'


@pytest.mark.parametrize(
  'arguments', [['--traceback', 'train'], ['train', '--traceback']]
)
def test_traceback_shows_where_a_mistake_arose(arguments, train_is):
  train_is(raising(ValueError('x')))
  with pytest.raises(ValueError, match='x'):
    main.main(arguments)


def test_traceback_by_environment(train_is, monkeypatch):
  train_is(raising(ValueError('x')))
  monkeypatch.setenv(main.TRACEBACK_VARIABLE, '1')
  with pytest.raises(ValueError, match='x'):
    main.main(['train'])


def test_a_mistake_of_ours_keeps_its_traceback(train_is):
  train_is(lambda args: int('not ours'))
  with pytest.raises(ValueError, match='not ours'):
    main.main(['train'])
  train_is(raising(TypeError('ours, but no refusal')))
  with pytest.raises(TypeError, match='no refusal'):
    main.main(['train'])
  train_is(raising(OSError('of no file')))
  with pytest.raises(OSError, match='of no file'):
    main.main(['train'])


def test_ctrl_c_is_one_line(train_is, capsys):
  train_is(raising(KeyboardInterrupt()))
  assert main.main(['train']) == 130
  assert capsys.readouterr().err == 'imagen-jax: interrupted\n'


def test_a_reader_that_has_seen_enough_is_no_error():
  code = """
import sys, types
from imagen_jax.cli import main
from imagen_jax.cli import mistakes
def run(args):
  for _ in range(100_000):
    print('a line that fills the pipe')
  return 0
sys.modules['imagen_jax.cli.train'] = types.SimpleNamespace(
    add_arguments=lambda parser: None, main=run)
sys.exit(main.main(['train']))
"""
  child = subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  child.stdout.readline()
  child.stdout.close()
  with child.stderr:
    assert child.stderr.read() == b''
  assert child.wait() == 141
