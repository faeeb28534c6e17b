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


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  import jax

  # Reading a checkpoint needs no accelerator, and a TPU may be busy training.
  jax.config.update('jax_platforms', 'cpu')
  from imagen_jax import export

  manifest = export.export_weights(args.workdir, args.out, step=args.step)
  size = sum(entry['bytes'] for entry in manifest['files'].values())
  print(
    f'exported the EMA weights of {manifest["stage"]} at step '
    f'{manifest["step"]} ({size / 1e6:.1f} MB) to {args.out}'
  )
  return 0
