"""The command `imagen-jax score`."""

import argparse
import json
import pathlib

HELP = 'check sampled pictures against their captions'

_EPILOG = """\
Pictures whose captions are of the quickstart's datasets are read back by their
checkers: what a caption says of colours, shapes, sizes, counts, positions and
objects is right in a picture or not. Other captions are counted as unscored.
"""


def add_arguments(parser: argparse.ArgumentParser):
  """Declares the command's arguments."""
  parser.epilog = _EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    '--samples',
    required=True,
    nargs='+',
    metavar='DIR',
    help='folders that `imagen-jax sample` wrote',
  )
  parser.add_argument(
    '--objects',
    type=int,
    default=64,
    metavar='N',
    help='OpenMoji drawings that an object is told from; default 64',
  )
  parser.add_argument('--out', metavar='FILE', help='gets the shares as JSON')


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  folders = [pathlib.Path(folder) for folder in args.samples]
  for folder in folders:  # Before the drawings are loaded, which takes seconds.
    if not folder.is_dir():
      raise ValueError(
        f'--samples {folder} is no folder; accepted: one that '
        '`imagen-jax sample` wrote'
      )
  from imagen_jax.synthetic import openmoji
  from imagen_jax.synthetic import scores as scores_lib

  objects = openmoji.choose_objects(args.objects)
  scores = scores_lib.score_folders(folders, objects)
  for name, summary in scores.items():
    if name != 'unscored':
      print(scores_lib.line(name, summary))
  if scores['unscored']:
    print(f'unscored: {scores["unscored"]} pictures of other captions')
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(scores, indent=2) + '\n')
  return 0
