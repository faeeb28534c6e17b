"""`imagen-jax data build --config`, for `imagen_jax.cli.data`."""

import argparse
import os

# Of the two uses of `data build`, by their first flag: those of this one.
_FLAGS = (
  ('task', ()),
  ('set', ()),
  ('sizes', ''),
  ('format', 'jpeg'),
  ('duplicates', 'near'),
  ('near_bits', 3),
  ('shard_mib', 256),
  ('num_shards', None),
  ('keep', ()),
  ('allow_bad', False),
  ('runner', 'DirectRunner'),
  ('workers', None),
  ('beam_option', ()),
)
# And of the other.
_OTHERS = ('num_examples', 'size', 'seed', 'objects', 'source')


def add_arguments(parser: argparse.ArgumentParser):
  """Adds the arguments; those not given are None, as `main` wants them."""
  group = parser.add_argument_group(
    'with --config (Apache Beam)',
    'reads the tasks of a config, whatever their kind, checks and filters '
    'them, leaves out copies, shrinks pictures to what stages want, and writes '
    'ArrayRecord shards with an index and a report',
  )
  add = group.add_argument
  add(
    '--task',
    action='append',
    metavar='NAME',
    help='build this task of data.tasks; may repeat (default: all)',
  )
  add(
    '--set',
    action='append',
    metavar='A.B=V',
    help='override a field of the config; may repeat',
  )
  add(
    '--sizes',
    metavar='S,S,...',
    help='sizes of stages, ascending: a picture is written with the largest '
    "shorter side of these that it fills (default: the config's stage's)",
  )
  add(
    '--format',
    metavar='F',
    help='jpeg (quality 95), png or webp (without loss) (default: jpeg)',
  )
  add(
    '--duplicates',
    metavar='D',
    help='near: leave out pictures that look like an earlier one; exact: of '
    'the same pixels; keep: none (default: near)',
  )
  add(
    '--near-bits',
    type=int,
    metavar='N',
    help='bits of 64 in which looks alike may differ, 0 to 3 (default: 3)',
  )
  add(
    '--shard-mib',
    type=int,
    metavar='N',
    help='about the size of a shard (default: 256)',
  )
  add(
    '--num-shards',
    type=int,
    metavar='N',
    help='shards of each task, in place of --shard-mib',
  )
  add(
    '--keep',
    action='append',
    metavar='FIELD',
    help='metadata that stays, beside what filters name; may repeat',
  )
  add(
    '--allow-bad',
    action='store_const',
    const=True,
    help='go on where more than data.max_bad_share of a task is bad',
  )
  add(
    '--runner',
    metavar='R',
    help="one of Beam's runners (default: DirectRunner, on this machine)",
  )
  add(
    '--workers',
    type=int,
    metavar='N',
    help='processes of DirectRunner (default: as many as cores)',
  )
  add(
    '--beam-option',
    action='append',
    metavar='NAME=VALUE',
    help='an option of the runner, as Beam knows it; may repeat',
  )


def main(args: argparse.Namespace) -> int:
  """Builds; returns the exit status.

  Raises:
    ValueError: for what the person can put right.
  """
  refuse(args, _OTHERS, 'dataset')
  given = {
    name: getattr(args, name) if getattr(args, name) is not None else default
    for name, default in _FLAGS
  }
  from imagen_jax import config as config_lib

  config = config_lib.override(config_lib.load(args.config), given['set'])

  from imagen_jax.prepare import options as options_lib

  sizes = given['sizes'] or str(config.stage.output_size)
  try:
    sizes = tuple(int(size) for size in sizes.split(','))
  except ValueError:
    raise ValueError(
      f'--sizes is {sizes!r}; accepted: pixels, as 64,256,1024'
    ) from None
  options = options_lib.Options(
    sizes=sizes,
    form=given['format'],
    duplicates=given['duplicates'],
    near_bits=given['near_bits'],
    num_shards=given['num_shards'],
    shard_mib=given['shard_mib'],
    keep=tuple(given['keep']),
  )
  from imagen_jax.prepare import build
  from imagen_jax.prepare import runner as runner_lib

  local = given['runner'] == runner_lib.LOCAL
  workers = given['workers']
  if workers is not None and (workers < 1 or not local):
    raise ValueError(
      f'--workers is {workers} with --runner {given["runner"]}; accepted: 1 or '
      f'more with {runner_lib.LOCAL}; of others an option tells, by '
      '--beam-option'
    )
  for option in given['beam_option']:
    if option.startswith('-') or not option.partition('=')[0]:
      raise ValueError(
        f'--beam-option is {option!r}; accepted: NAME=VALUE or NAME, without '
        'dashes before'
      )
  if not workers:
    workers = len(os.sched_getaffinity(0)) if local else 1
  runner = runner_lib.Runner(
    given['runner'],
    workers,
    tuple(f'--{option}' for option in given['beam_option']),
  )
  build.build(
    config,
    args.out,
    options,
    tasks=given['task'],
    runner=runner,
    allow_bad=given['allow_bad'],
  )
  return 0


def refuse_ours(args: argparse.Namespace):
  """Raises ValueError where a flag is given that goes with --config."""
  refuse(args, [name for name, _ in _FLAGS], 'config')


def refuse(args, names, wanted):
  """Raises ValueError where one of the flags `names` is given."""
  for name in names:
    if getattr(args, name) is not None:
      flag = name.replace('_', '-')
      raise ValueError(
        f'--{flag} is given without --{wanted}; accepted: with --{wanted}'
      )
