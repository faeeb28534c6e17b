"""The program `imagen-jax`: finds a command's module and runs it.

A command is a module of this folder that has, and imports nothing but the
standard library to have them:

  HELP: one line, which the table below repeats;
  add_arguments(parser): declares its arguments;
  main(args) -> int: does the work, and imports what that takes.

So `--help` starts without JAX and TensorFlow, and only the module of the
command that was named is imported at all.
"""

import argparse
import difflib
import importlib
import os
import sys

import imagen_jax
from imagen_jax.cli import mistakes

COMMANDS = {
  'data': 'build a dataset, index shards, or look into either',
  'encode': 'encode captions into a store of text embeddings',
  'train': 'train one stage, or resume it',
  'status': 'print where a run stands',
  'export': "write a stage's averaged weights for sampling",
  'sample': 'make pictures from captions with exported stages',
  'describe': 'count what a stage is made of and costs',
  'precompile': "compile a stage's training step for a TPU that is not here",
  'plan': 'find how a stage runs fastest on a TPU that is not here',
  'score': 'check sampled pictures against their captions',
}

# For programs that call this one.
TRACEBACK_VARIABLE = mistakes.TRACEBACK_VARIABLE

_INTERRUPTED = 128 + 2  # What a shell reports for SIGINT,
_BROKEN_PIPE = 128 + 13  # and for SIGPIPE.


def main(argv: list[str] | None = None) -> int:
  """Runs the command that `argv` names; returns the exit status.

  A mistake that a person can mend, which is a ValueError that this package
  raises or a file that cannot be used, is one line on stderr and status 2.
  Anything else that fails shows its traceback.

  Args:
    argv: arguments after the program's name; None takes the process's own.
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  # No option before the command takes a value, so this is its name.
  name = next((arg for arg in argv if not arg.startswith('-')), None)
  if name is not None and name not in COMMANDS:
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    wanted = (
      f'did you mean {near[0]}?' if near else f'accepted: {", ".join(COMMANDS)}'
    )
    return _refuse(f'no command {name!r}; {wanted}')
  command = name and importlib.import_module(f'imagen_jax.cli.{name}')
  args = _parser(name, command).parse_args(argv)
  try:
    return command.main(args)
  except KeyboardInterrupt:
    print('imagen-jax: interrupted', file=sys.stderr)
    return _INTERRUPTED
  except BrokenPipeError:
    # The reader of a pipe has seen enough. Python flushes stdout once more
    # when it exits, which must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE
  except (ValueError, OSError) as error:
    message = mistakes.told(error)
    if message is None or args.traceback or os.environ.get(TRACEBACK_VARIABLE):
      raise
    return _refuse(message)


def _parser(name, command):
  """Returns the parser, with the arguments of command `name` alone."""
  parser = argparse.ArgumentParser(
    prog='imagen-jax',
    description='Trains and samples Imagen, a text-to-image cascade.',
    epilog='`imagen-jax COMMAND --help` tells the arguments of one.',
  )
  parser.add_argument(
    '--version',
    action='version',
    version=f'imagen-jax {imagen_jax.__version__}',
  )
  traceback_help = f'show where an error arose (also: {TRACEBACK_VARIABLE}=1)'
  parser.add_argument('--traceback', action='store_true', help=traceback_help)
  commands = parser.add_subparsers(
    title='commands', metavar='COMMAND', required=True
  )
  for each, summary in COMMANDS.items():
    sub = commands.add_parser(
      each,
      help=summary,
      description=summary[0].upper() + summary[1:] + '.',
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if each == name:
      command.add_arguments(sub)
      # SUPPRESS, or the default would undo the option before the command.
      sub.add_argument(
        '--traceback',
        action='store_true',
        default=argparse.SUPPRESS,
        help=traceback_help,
      )
  return parser


def _refuse(message):
  print(f'imagen-jax: {message}', file=sys.stderr)
  return 2
