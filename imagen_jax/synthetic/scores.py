"""What share of sampled pictures is right, of captions that checkers read."""

import collections
import collections.abc
import json
import pathlib

import numpy as np
from PIL import Image

from imagen_jax.synthetic import check_openmoji
from imagen_jax.synthetic import check_shapes
from imagen_jax.synthetic import openmoji
from imagen_jax.synthetic import shapes

# What `imagen-jax sample` writes beside its pictures.
_LIST = 'samples.jsonl'


def score_folders(
  folders: collections.abc.Iterable[pathlib.Path],
  objects: collections.abc.Sequence[str],
) -> dict[str, dict | int]:
  """Returns `summarise` of the pictures in folders, by dataset.

  Args:
    folders: each has a `samples.jsonl`, whose lines say `file` and `prompt`.
    objects: the OpenMoji drawings that an object is told from.

  Returns:
    {'shapes': ..., 'openmoji': ..., 'unscored': n}; n pictures have captions
    of neither.

  Raises:
    ValueError: where a list or a picture cannot be read.
  """
  # All lists first: a typing error in the last folder should show at once.
  samples = [(folder, one) for folder in folders for one in _samples(folder)]
  checkers = {
    'shapes': (shapes.parse, check_shapes.score),
    'openmoji': (
      openmoji.parse,
      lambda image, caption: check_openmoji.score(image, caption, objects),
    ),
  }
  verdicts, unscored = collections.defaultdict(list), 0
  for folder, sample in samples:
    name = _dataset(checkers, sample['prompt'])
    if name is None:
      unscored += 1
      continue
    _, check = checkers[name]
    pixels = _pixels(folder, sample['file'])
    verdicts[name].append(check(pixels, sample['prompt']))
  scores = {name: summarise(found) for name, found in verdicts.items()}
  return {**scores, 'unscored': unscored}


def summarise(
  verdicts: collections.abc.Sequence[dict[str, bool | None]],
) -> dict:
  """Returns the share of right verdicts by key.

  Args:
    verdicts: one or more, of one checker's `score`.

  Returns:
    `pictures`, their number; `right`, by key the share of those whose caption
    states it, and as 'all' the share of pictures that are wrong in no key;
    and `stated`, by key the number of such captions. A key that no caption
    states is left out.
  """
  right, stated = {}, {}
  for key in verdicts[0]:
    known = [bool(one[key]) for one in verdicts if one[key] is not None]
    if known:
      right[key] = sum(known) / len(known)
      stated[key] = len(known)
  whole = [all(v is None or v for v in one.values()) for one in verdicts]
  right['all'] = sum(whole) / len(whole)
  stated['all'] = len(whole)
  return {'pictures': len(verdicts), 'right': right, 'stated': stated}


def line(name: str, summary: dict) -> str:
  """Returns a summary for a person: shares, and of how many if not of all."""
  pictures = summary['pictures']
  parts = [
    f'{key} {share:.1%}' + (f' of {stated}' if stated < pictures else '')
    for (key, share), stated in zip(
      summary['right'].items(), summary['stated'].values(), strict=True
    )
  ]
  return f'{name} ({pictures} pictures): {", ".join(parts)}'


def _samples(folder):
  path = folder / _LIST
  if not path.is_file():
    raise ValueError(
      f'--samples {folder} has no {_LIST}; accepted: a folder that '
      '`imagen-jax sample` wrote'
    )
  samples = []
  for number, text in enumerate(path.read_text().splitlines(), 1):
    try:
      sample = json.loads(text)
      samples.append({name: sample[name] for name in ('file', 'prompt')})
    except (ValueError, KeyError, TypeError):
      raise ValueError(
        f'--samples {folder}: line {number} of {_LIST} is broken; accepted: '
        'an object with file and prompt'
      ) from None
  return samples


def _dataset(checkers, caption):
  for name, (parse, _) in checkers.items():
    try:
      parse(caption)
    except ValueError:
      continue
    return name
  return None


def _pixels(folder, name):
  try:
    with Image.open(folder / name) as image:
      return np.asarray(image.convert('RGB'))
  except OSError as error:
    raise ValueError(
      f'--samples {folder}: {name} cannot be read ({error}); accepted: the '
      f'pictures that {_LIST} lists'
    ) from None
