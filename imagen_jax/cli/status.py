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
  parser.add_argument(
    '--compare',
    metavar='FILE_OR_WORKDIR',
    help='lay the losses over those of another run, or of a file of curves, '
    'such as docs/quickstart-curves.jsonl',
  )


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  if args.watch is not None and not args.watch > 0:
    raise ValueError(f'--watch is {args.watch}; accepted: seconds above 0')
  if args.watch is None:
    print(_text(args))
    return 0
  try:
    while True:
      text = _text(args)
      print((_CLEAR if sys.stdout.isatty() else '') + text, flush=True)
      time.sleep(args.watch)
  except KeyboardInterrupt:
    return 0


def _text(args):
  """What is to be printed, as things stand."""
  from imagen_jax import compare
  from imagen_jax import status

  text = status.report(status.read(args.workdir))
  if args.compare is not None:
    text += '\n\n' + compare.report(args.workdir, args.compare)
  return text
