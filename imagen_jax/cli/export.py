"""The command `imagen-jax export`."""

import argparse

HELP = "write a stage's averaged weights for sampling"


def add_arguments(parser: argparse.ArgumentParser):
  """Declares the command's arguments."""
  parser.add_argument(
    '--workdir', required=True, metavar='DIR', help='of the training run'
  )
  parser.add_argument(
    '--out',
    required=True,
    metavar='DIR',
    help='gets weights-*.safetensors, config.json and manifest.json',
  )
  parser.add_argument(
    '--step', type=int, metavar='N', help='of the checkpoint; default newest'
  )
  which = parser.add_mutually_exclusive_group()
  which.add_argument(
    '--ema',
    choices=('average', 'raw'),
    default='average',
    help='the EMA weights, which is the default, or those that are trained',
  )
  which.add_argument(
    '--ema-length',
    type=float,
    metavar='X',
    help='an average of this length (a share of the run, such as 0.12), made '
    'of the snapshots that train.ema_snapshot_every has left',
  )
  parser.add_argument(
    '--at-step',
    type=int,
    metavar='N',
    help='with --ema-length: of the snapshot it is taken at; default newest',
  )


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  if args.ema_length is None and args.at_step is not None:
    raise ValueError(
      f'--at-step is {args.at_step} without --ema-length; accepted: both, or '
      '--step for a checkpoint'
    )
  if args.ema_length is not None and args.step is not None:
    raise ValueError(
      f'--step is {args.step} with --ema-length; accepted: --at-step, of a '
      'snapshot'
    )

  import jax

  # Reading a checkpoint needs no accelerator, and a TPU may be busy training.
  jax.config.update('jax_platforms', 'cpu')
  from imagen_jax import export

  if args.ema_length is not None:
    manifest = export.export_length(
      args.workdir, args.out, length=args.ema_length, step=args.at_step
    )
    what = f'the average of length {args.ema_length:g}'
  else:
    manifest = export.export_weights(
      args.workdir, args.out, step=args.step, ema=args.ema
    )
    what = 'the EMA weights' if args.ema == 'average' else 'the raw weights'
  size = sum(entry['bytes'] for entry in manifest['files'].values())
  print(
    f'exported {what} of {manifest["stage"]} at step {manifest["step"]} '
    f'({size / 1e6:.1f} MB) to {args.out}'
  )
  if args.ema_length is not None:
    print(
      f'made of {manifest["snapshots"]} snapshots; its weights over time are '
      f'{manifest["profile_error"]:.2%} from those of that length'
    )
  return 0
