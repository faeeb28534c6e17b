"""imagen-jax data: build a dataset, or look at one."""

import argparse

HELP = 'build a dataset, or look into one'


def add_arguments(parser: argparse.ArgumentParser):
  """Adds the sub-commands build, captions and inspect."""
  commands = parser.add_subparsers(
    dest='data_command', required=True, metavar='COMMAND'
  )
  build = commands.add_parser(
    'build',
    help='write a TFDS dataset of drawn pictures, or of your own',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  build.add_argument(
    '--dataset',
    required=True,
    choices=('shapes', 'openmoji', 'folder'),
    help='shapes and openmoji are drawn here; folder packs the pictures and '
    'captions.jsonl of --source',
  )
  build.add_argument(
    '--out', required=True, metavar='DIR', help='folder to write'
  )
  build.add_argument(
    '--num-examples',
    type=int,
    metavar='N',
    help='pictures to train on; of a folder, lines used (default: all)',
  )
  build.add_argument(
    '--size', type=int, metavar='S', help='pixels on a side, if drawn'
  )
  build.add_argument(
    '--seed', type=int, default=0, metavar='N', help='of what is drawn'
  )
  build.add_argument(
    '--objects',
    type=int,
    default=64,
    metavar='K',
    help='how many different objects openmoji shows',
  )
  build.add_argument(
    '--source', metavar='DIR', help='the folder of pictures, for folder'
  )
  captions = commands.add_parser(
    'captions',
    help='print captions of shapes or openmoji that their training sets lack',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  captions.add_argument(
    '--dataset', required=True, choices=('shapes', 'openmoji')
  )
  captions.add_argument(
    '--num', type=int, default=100, metavar='N', help='how many'
  )
  captions.add_argument(
    '--seed', type=int, default=0, metavar='N', help='of the choice'
  )
  captions.add_argument(
    '--objects',
    type=int,
    default=64,
    metavar='K',
    help='how many different objects openmoji shows',
  )
  inspect = commands.add_parser(
    'inspect',
    help='print counts, captions, bad records and reading speed of the data '
    'of a config; draw a contact sheet',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  inspect.add_argument(
    '--config', required=True, metavar='C', help='PATH.py or PATH.py:ROW'
  )
  inspect.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='A.B=V',
    help='override a field of the config; may repeat',
  )
  inspect.add_argument(
    '--out',
    metavar='PNG',
    help='contact sheet to write: pictures and captions as the network will '
    'see them',
  )
  inspect.add_argument(
    '--num', type=int, default=32, metavar='N', help='pictures on the sheet'
  )
  inspect.add_argument(
    '--scan',
    type=int,
    default=2000,
    metavar='N',
    help='records of each split that are read to report on',
  )


def main(args: argparse.Namespace) -> int:
  """Runs a sub-command; returns the exit status.

  Raises:
    ValueError: for what the person can put right.
  """
  if args.data_command == 'build':
    return _build(args)
  if args.data_command == 'captions':
    return _captions(args)
  return _inspect(args)


def _captions(args):
  from imagen_jax.synthetic import openmoji
  from imagen_jax.synthetic import shapes

  if args.dataset == 'shapes':
    captions = shapes.heldout_captions(args.num, args.seed)
  else:
    names = openmoji.choose_objects(args.objects)
    captions = openmoji.heldout_captions(args.num, args.seed, names)
  for caption in captions:
    print(caption)
  return 0


def _build(args):
  if '://' in args.out:
    raise ValueError(
      f'--out is {args.out!r}; accepted: a folder of this machine, or of a '
      'bucket that is mounted as one'
    )
  from imagen_jax.synthetic import build

  build.build(
    args.dataset,
    args.out,
    num_examples=args.num_examples,
    size=args.size,
    seed=args.seed,
    num_objects=args.objects,
    source=args.source,
  )
  return 0


def _inspect(args):
  from imagen_jax import config as config_lib

  for name in ('num', 'scan'):
    if getattr(args, name) < 1:
      raise ValueError(
        f'--{name} is {getattr(args, name)}; accepted: 1 or more'
      )
  config = config_lib.override(config_lib.load(args.config), args.set)

  from imagen_jax.data import inspection

  for line in inspection.describe(config, scan=args.scan):
    print(line, flush=True)
  if args.out:
    sheet = inspection.contact_sheet(config, num=args.num)
    sheet.save(args.out, 'PNG')
    print(f'contact sheet: {args.out}')
  return 0
