"""The command `imagen-jax describe`."""

import argparse
import pathlib

HELP = 'count what a stage is made of and costs'

_EPILOG = """\
From shapes alone: no accelerator, no data and little memory are needed.
FLOPs are those of convolutions, dense layers and attention, two a
multiplication. Activations are what the backward pass is left, before XLA.
"""


def add_arguments(parser: argparse.ArgumentParser):
  """Declares the command's arguments."""
  parser.epilog = _EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument(
    '--config',
    metavar='FILE[:ROW]',
    help='a config, such as configs/base64.py',
  )
  what.add_argument(
    '--all',
    action='store_true',
    help="parameters of every config, beside the paper's figures",
  )
  parser.add_argument(
    '--configs',
    default='configs',
    metavar='DIR',
    help='with --all: where they are; default configs',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='A.B=VALUE',
    help='set a field of the config; may be given several times',
  )


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  if args.all and args.set:
    raise ValueError('--set with --all; accepted: --set with --config')

  import jax

  # Nothing is computed, and a TPU may be busy training.
  jax.config.update('jax_platforms', 'cpu')
  from imagen_jax import config as config_lib
  from imagen_jax import describe

  if args.all:
    print(describe.parameter_table(args.configs))
    return 0
  config = config_lib.override(config_lib.load(args.config), args.set)
  path, _, row = args.config.partition(':')
  figures = describe.rows(pathlib.Path(path))
  # A file's first row is the one that it is without a row.
  # As `rows` names them, whatever way the file was named.
  name = f'{pathlib.Path(path)}:{row}'
  paper = dict(figures).get(name) if row else figures[0][1]
  print(describe.report(config, paper))
  return 0
