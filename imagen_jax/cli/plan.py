"""The command `imagen-jax plan`."""

import argparse
import json
import pathlib
import sys

from imagen_jax.cli import outputs

HELP = 'find how a stage runs fastest on a TPU that is not here'

_EPILOG = """\
Compiles a few ways to run the config, as `imagen-jax precompile` does (minutes
each; needs libtpu): shards of the state, rematerialisation, microbatches. None
of them changes what is computed. Prints the best that fits as --set overrides
for `imagen-jax train`; status 1 where none fits.

    imagen-jax plan --config configs/base64.py --topology v5e:16x16
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
    '--tries',
    type=int,
    default=6,
    metavar='N',
    help='most ways that are compiled; default 6',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='A.B=VALUE',
    help='set a field of the config; may be given several times',
  )
  parser.add_argument(
    '--json', metavar='FILE', help="write every way's figures there as well"
  )


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  from imagen_jax import config as config_lib
  from imagen_jax.precompile import topology as topology_lib

  config = config_lib.override(config_lib.load(args.config), args.set)
  topology = topology_lib.parse(args.topology, args.slices)
  if args.tries < 1:
    raise ValueError(f'--tries is {args.tries}; accepted: 1 and more')
  outputs.check({'--json': args.json})
  topology_lib.prepare()
  from imagen_jax.precompile import compile as compile_lib
  from imagen_jax.precompile import plan
  from imagen_jax.precompile import report

  every = []

  def compile_way(config):
    compiled = compile_lib.compile_step(config, topology)
    every.append(report.figures(config, topology, compiled))
    if args.json:
      # After each: what was compiled is kept of a search that was stopped.
      pathlib.Path(args.json).write_text(json.dumps(every, indent=2) + '\n')
    if 'not_modelled' in every[-1]:
      raise ValueError(every[-1]['not_modelled'])
    return every[-1]

  say = lambda line: print(line, file=sys.stderr, flush=True)
  num_devices = len(topology_lib.devices(topology))
  say('counting activations')
  ladder = plan.ways(
    config,
    num_devices,
    topology.chip.hbm_bytes,
    lambda policy: plan.counted_bytes(config, policy),
  )
  tried = plan.search(
    config,
    ladder,
    lambda way: plan.other_meshes(way, config, num_devices),
    compile_way,
    tries=args.tries,
    say=say,
  )
  print(plan.text(tried))
  return 0 if plan.best(tried) else 1
