"""The command `imagen-jax score`."""

import argparse
import collections
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
  import numpy as np
  from PIL import Image

  from imagen_jax.synthetic import check_openmoji
  from imagen_jax.synthetic import check_shapes
  from imagen_jax.synthetic import openmoji
  from imagen_jax.synthetic import shapes

  objects = openmoji.choose_objects(args.objects)
  checkers = {
    'shapes': (shapes.parse, check_shapes.score),
    'openmoji': (
      openmoji.parse,
      lambda image, caption: check_openmoji.score(image, caption, objects),
    ),
  }
  verdicts = collections.defaultdict(lambda: collections.defaultdict(list))
  pictures = collections.Counter()
  for folder in map(pathlib.Path, args.samples):
    for sample in _samples(folder):
      name = _checker(checkers, sample['prompt'])
      pictures[name] += 1
      if name == 'unscored':
        continue
      try:
        with Image.open(folder / sample['file']) as image:
          pixels = np.asarray(image.convert('RGB'))
      except OSError as error:
        raise ValueError(
          f'--samples {folder}: {sample["file"]} cannot be read ({error}); '
          'accepted: the pictures that samples.jsonl lists'
        ) from None
      verdict = checkers[name][1](pixels, sample['prompt'])
      for key, right in verdict.items():
        if right is not None:
          verdicts[name][key].append(bool(right))
  scores = {
    name: {
      'pictures': pictures[name],
      **{key: sum(v) / len(v) for key, v in verdicts[name].items()},
    }
    for name in verdicts
  }
  scores['unscored'] = pictures['unscored']
  for name in verdicts:
    row = ', '.join(
      f'{key} {share:.1%}'
      for key, share in scores[name].items()
      if key != 'pictures'
    )
    print(f'{name} ({pictures[name]} pictures): {row}')
  if pictures['unscored']:
    print(f'unscored: {pictures["unscored"]} pictures of other captions')
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(scores, indent=2) + '\n')
  return 0


def _samples(folder):
  path = folder / 'samples.jsonl'
  if not path.is_file():
    raise ValueError(
      f'--samples {folder} has no samples.jsonl; accepted: a folder that '
      '`imagen-jax sample` wrote'
    )
  samples = []
  for number, line in enumerate(path.read_text().splitlines(), 1):
    try:
      sample = json.loads(line)
      samples.append({name: sample[name] for name in ('file', 'prompt')})
    except (ValueError, KeyError, TypeError):
      raise ValueError(
        f'--samples {folder}: line {number} of samples.jsonl is broken; '
        'accepted: an object with file and prompt'
      ) from None
  return samples


def _checker(checkers, caption):
  for name, (parse, _) in checkers.items():
    try:
      parse(caption)
    except ValueError:
      continue
    return name
  return 'unscored'
