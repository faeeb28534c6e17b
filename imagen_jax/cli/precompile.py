"""The command `imagen-jax precompile`."""

import argparse
import json
import pathlib
import sys

from imagen_jax.cli import outputs

HELP = "compile a stage's training step for a TPU that is not here"

_EPILOG = """\
Needs libtpu (pip install 'imagen-jax[tpu]') and no TPU; one at a time on a
machine. Tells the memory of a device and a step time, modelled by the
compiler's own estimates: nothing is run. Status 1 where it does not fit.

    imagen-jax precompile --config configs/base64.py --topology v5p:4x4x8
"""


def add_arguments(parser: argparse.ArgumentParser):
  """Declares the command's arguments."""
  parser.epilog = _EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    '--config',
    required=True,
    metavar='FILE[:ROW]',
    help='a config, such as configs/base64.py',
  )
  parser.add_argument(
    '--topology',
    required=True,
    metavar='KIND:SIZES',
    help='v4, v5e, v5p, v6e or tpu7x and its torus, such as v5p:4x4x8',
  )
  parser.add_argument(
    '--slices',
    type=int,
    default=1,
    metavar='N',
    help='how many of them, joined by the network; default 1',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='A.B=VALUE',
    help='set a field of the config; may be given several times',
  )
  parser.add_argument(
    '--json', metavar='FILE', help='write the figures there as well'
  )
  parser.add_argument(
    '--hlo', metavar='FILE', help='write the scheduled program there'
  )
  parser.add_argument(
    '--save',
    metavar='FILE',
    help='write the compiled step there, for `imagen-jax train --executable`',
  )


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  from imagen_jax import config as config_lib
  from imagen_jax.precompile import topology as topology_lib

  config = config_lib.override(config_lib.load(args.config), args.set)
  topology = topology_lib.parse(args.topology, args.slices)
  outputs.check({'--json': args.json, '--hlo': args.hlo, '--save': args.save})
  topology_lib.prepare()
  from imagen_jax.precompile import compile as compile_lib
  from imagen_jax.precompile import report

  compiled = compile_lib.compile_step(config, topology, save=args.save)
  if args.hlo and compiled.hlo is not None:
    pathlib.Path(args.hlo).write_text(compiled.hlo)
  found = report.figures(config, topology, compiled)
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(found, indent=2) + '\n')
  print(report.text(found))
  for name in ('hlo', 'save'):
    if getattr(args, name) and compiled.hlo is None:
      print(f'it does not fit: --{name} was not written', file=sys.stderr)
  if 'not_modelled' in found:
    raise ValueError(found['not_modelled'])
  return 0 if found['fits'] else 1
