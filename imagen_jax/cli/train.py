"""The command `imagen-jax train`."""

import argparse
import os
import re
import shlex
import sys
import time

from imagen_jax.cli import devices
from imagen_jax.cli import screen

HELP = 'train one stage, or resume it'

_EPILOG = """\
A workdir that holds a checkpoint is resumed from it. Ctrl-C and SIGTERM finish
the step, save, and say how to go on. The workdir gets checkpoints/,
metrics.jsonl, goodput.jsonl, tensorboard/, samples/, skipped/ and config.json;
`imagen-jax status DIR` says where the run stands.

On the hosts of a TPU pod, start the same command on each: they find each
other. Elsewhere, say who is who with --coordinator, --num-processes and
--process-id.
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
    '--workdir',
    required=True,
    metavar='DIR',
    help='where the run is kept; local, or gs://...',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='A.B=VALUE',
    help='set a field of the config; may be given several times',
  )
  parser.add_argument(
    '--allow-config-change',
    action='store_true',
    help="resume although the config differs from the checkpoint's",
  )
  parser.add_argument(
    '--profile-steps',
    metavar='FIRST:LAST',
    help='write a trace of these steps for xprof to profile/; SIGUSR1 has a '
    'running process write one of its next five',
  )
  parser.add_argument(
    '--executable',
    metavar='FILE',
    help='the step that `imagen-jax precompile --save FILE` compiled for this '
    'run; local, or gs://...; it is code: take none from strangers',
  )
  parser.add_argument(
    '--maintenance',
    action='store_true',
    help='on Compute Engine: stop in good order, as by SIGTERM, where its '
    'metadata server says that a host will be taken away',
  )
  parser.add_argument(
    '--wandb',
    metavar='PROJECT',
    help='hand the metrics to this project at Weights & Biases, too; with '
    'WANDB_MODE=offline, to files that `wandb sync` sends',
  )
  devices.add_arguments(parser)


@screen.forgiven()
def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  from imagen_jax import config as config_lib

  begun = time.time()
  config = config_lib.override(config_lib.load(args.config), args.set)
  if not config.text.store and not config.text.online:
    raise ValueError(
      'text.store is empty; accepted: a folder that `imagen-jax encode` '
      'wrote (--set text.store=DIR), or --set text.online=true'
    )
  steps = _profile_steps(args.profile_steps)
  if args.wandb == '':
    raise ValueError("--wandb is ''; accepted: the name of a project")
  devices.start(
    config.mesh.simulated_devices,
    coordinator=args.coordinator,
    num_processes=args.num_processes,
    process_id=args.process_id,
    dead_after=args.dead_after,
  )
  import jax

  from imagen_jax.train import loop

  try:
    with devices.together():
      outcome = loop.train(
        config,
        args.workdir,
        allow_config_change=args.allow_config_change,
        profile_steps=steps,
        executable=args.executable,
        maintenance=args.maintenance,
        wandb=args.wandb,
        begun=begun,
      )
  except FloatingPointError as error:
    print(f'imagen-jax: {error}', file=sys.stderr)
    return 1
  status = 0 if outcome.signal is None else 128 + outcome.signal
  if jax.process_index() > 0:
    return status  # One of a thousand hosts is enough to say so.
  if outcome.signal is None:
    print(f'trained to step {outcome.step}: {args.workdir}', file=sys.stderr)
  else:
    again = shlex.join([*_program(), *sys.argv[1:]])
    print(
      f'stopped by signal {int(outcome.signal)} and saved step {outcome.step}; '
      f'go on with: {again}',
      file=sys.stderr,
    )
  return status


def _profile_steps(text):
  """The steps that --profile-steps names, or None.

  Raises:
    ValueError: where it names none.
  """
  if text is None:
    return None
  match = re.fullmatch(r'(\d+):(\d+)', text)
  steps = match and tuple(map(int, match.groups()))
  if not steps or not 1 <= steps[0] <= steps[1]:
    raise ValueError(
      f'--profile-steps is {text!r}; accepted: FIRST:LAST, such as 10:15'
    )
  return steps


def _program():
  """How this program was called, which need not lie on the PATH."""
  if os.path.basename(sys.argv[0]) == 'imagen-jax':
    return [sys.argv[0]]
  return [sys.executable, '-m', 'imagen_jax']
