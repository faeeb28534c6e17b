"""The command `imagen-jax status`."""

import argparse
import sys
import time

HELP = 'print where a run stands'

# Between two looks at a run.
_SECONDS = 10.0
_CLEAR = '\x1b[2J\x1b[H'


def add_arguments(parser: argparse.ArgumentParser):
  """Declares the command's arguments."""
  parser.add_argument('workdir', metavar='WORKDIR', help='of the run')
  parser.add_argument(
    '--watch',
    type=float,
    nargs='?',
    const=_SECONDS,
    metavar='SECONDS',
    help=f'print it anew every so many seconds ({_SECONDS:g}), until Ctrl-C; '
    'to stand behind WORKDIR',
  )


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  from imagen_jax import status

  if args.watch is not None and not args.watch > 0:
    raise ValueError(f'--watch is {args.watch}; accepted: seconds above 0')
  if args.watch is None:
    print(status.report(status.read(args.workdir)))
    return 0
  try:
    while True:
      text = status.report(status.read(args.workdir))
      print((_CLEAR if sys.stdout.isatty() else '') + text, flush=True)
      time.sleep(args.watch)
  except KeyboardInterrupt:
    return 0
