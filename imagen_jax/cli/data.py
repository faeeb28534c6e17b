"""imagen-jax data: build a dataset, index shards, or look at either."""

import argparse
import os
import re

from imagen_jax.cli import prepare

HELP = 'build a dataset, index shards, or look into either'

# Shards that are named where something is wrong with them.
_LISTED = 20


def add_arguments(parser: argparse.ArgumentParser):
  """Adds the sub-commands build, captions, index and inspect."""
  commands = parser.add_subparsers(
    dest='data_command', required=True, metavar='COMMAND'
  )
  build = commands.add_parser(
    'build',
    help='write a dataset: of drawn pictures, of a folder, or of the tasks of '
    'a config',
  )
  what = build.add_mutually_exclusive_group(required=True)
  what.add_argument(
    '--dataset',
    choices=('shapes', 'openmoji', 'folder'),
    help='shapes and openmoji are drawn here; folder packs the pictures and '
    'captions.jsonl of --source, as a TFDS dataset',
  )
  what.add_argument(
    '--config', metavar='C', help='PATH.py or PATH.py:ROW: build its tasks'
  )
  build.add_argument(
    '--out', required=True, metavar='DIR', help='folder to write'
  )
  drawn = build.add_argument_group('with --dataset')
  drawn.add_argument(
    '--num-examples',
    type=int,
    metavar='N',
    help='pictures to train on; of a folder, lines used (default: all)',
  )
  drawn.add_argument(
    '--size', type=int, metavar='S', help='pixels on a side, if drawn'
  )
  drawn.add_argument(
    '--seed', type=int, metavar='N', help='of what is drawn (default: 0)'
  )
  drawn.add_argument(
    '--objects',
    type=int,
    metavar='K',
    help='how many different objects openmoji shows (default: 64)',
  )
  drawn.add_argument(
    '--source', metavar='DIR', help='the folder of pictures, for folder'
  )
  prepare.add_arguments(build)
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
  index = commands.add_parser(
    'index',
    help='find where the records of shards (tar, TFRecord, Parquet, ...) begin '
    'and write it down, once for all hosts and runs',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  _add_config(index)
  index.add_argument(
    '--task',
    action='append',
    default=[],
    metavar='NAME',
    help='index this one of data.tasks; may repeat (default: all with shards)',
  )
  index.add_argument(
    '--workers',
    type=int,
    default=len(os.sched_getaffinity(0)),
    metavar='N',
    help='processes that scan',
  )
  index.add_argument(
    '--part',
    default='0/1',
    metavar='I/N',
    help='scan part I, from 0, of N, each on a machine of its own; then run '
    'once without, which puts together what they found',
  )
  inspect = commands.add_parser(
    'inspect',
    help='print counts, captions, bad records and reading speed of the data '
    'of a config; draw a contact sheet',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  _add_config(inspect)
  inspect.add_argument(
    '--task',
    metavar='NAME',
    help='look into this one of data.tasks alone (default: the mixture)',
  )
  inspect.add_argument(
    '--out',
    metavar='PNG',
    help='contact sheet to write: pictures and captions as the network will '
    'see them',
  )
  inspect.add_argument(
    '--no-tokens',
    action='store_true',
    help="do not count captions' tokens, for which the vocabulary is needed",
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


def _add_config(parser):
  parser.add_argument(
    '--config', required=True, metavar='C', help='PATH.py or PATH.py:ROW'
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='A.B=V',
    help='override a field of the config; may repeat',
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
  if args.data_command == 'index':
    return _index(args)
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
  if args.config is not None:
    return prepare.main(args)
  prepare.refuse_ours(args)
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
    seed=args.seed or 0,
    num_objects=64 if args.objects is None else args.objects,
    source=args.source,
  )
  return 0


def _index(args):
  from imagen_jax import config as config_lib

  match = re.fullmatch(r'(\d{1,6})/(\d{1,6})', args.part)
  part = tuple(map(int, match.groups())) if match else (0, 0)
  if not part[0] < part[1]:
    raise ValueError(
      f'--part is {args.part!r}; accepted: I/N, with I from 0 to N - 1'
    )
  if args.workers < 1:
    raise ValueError(f'--workers is {args.workers}; accepted: 1 or more')
  config = config_lib.override(config_lib.load(args.config), args.set)
  there = [task for task in config.data.tasks if task.kind != 'tfds']
  chosen = [t for t in there if not args.task or t.name in args.task]
  unknown = set(args.task) - {task.name for task in there}
  if unknown or not chosen:
    raise ValueError(
      f'--task is {sorted(unknown) or args.task}; accepted: tasks of the '
      f'config that have shards: {[task.name for task in there]}'
    )

  import tqdm

  from imagen_jax.shards import build
  from imagen_jax.shards import place as place_lib

  for task in chosen:
    place = place_lib.of(task)
    with tqdm.tqdm(desc=task.name, unit=' shards') as bar:

      def show(done, total, bar=bar):
        bar.total = total
        bar.update(done - bar.n)

      report = build.build(
        place, workers=args.workers, part=part, progress=show
      )
    what = place.index if report.done else f'part {args.part} of {place.index}'
    print(f'{what}: {report.records:,} records in {report.shards:,} shards')
    _print_some('missing', report.missing)
    _print_some('damaged', report.damaged)
  return 0


def _print_some(what, found):
  if found:
    print(f'{len(found)} shards are {what}:')
    for line in found[:_LISTED]:
      print(f'  {line}')
    if len(found) > _LISTED:
      print('  ...')


def _inspect(args):
  from imagen_jax import config as config_lib

  for name in ('num', 'scan'):
    if getattr(args, name) < 1:
      raise ValueError(
        f'--{name} is {getattr(args, name)}; accepted: 1 or more'
      )
  config = config_lib.override(config_lib.load(args.config), args.set)

  from imagen_jax.data import inspection

  if args.task is not None:
    config = inspection.of_task(config, args.task)
  # First: what is wrong with it is told before minutes of reading.
  count = None
  if not args.no_tokens:
    from imagen_jax.text import tokenizer

    count = tokenizer.load(config.text).lengths
  for line in inspection.describe(config, scan=args.scan, count=count):
    print(line, flush=True)
  if args.out:
    sheet = inspection.contact_sheet(config, num=args.num)
    sheet.save(args.out, 'PNG')
    print(f'contact sheet: {args.out}')
  return 0
