"""Real pictures and captions, through every kind of source.

    pip download --no-deps scikit-image && unzip -q scikit_image*.whl -d FOLDER
    python tests/data/real_pairs.py --source FOLDER/skimage/data

scikit-image carries pictures, and functions that give them, each with a line
that says what is seen. Those pairs are written in every form that is read, by
the writers of the tests; each kind of source has to give the same keys,
captions and pixels as the files themselves. Prints a line for each kind.
"""

import argparse
import ast
import pathlib
import sys
import tempfile

import numpy as np

sys.path.append(str(pathlib.Path(__file__).parent.parent))
import shard_files

from imagen_jax import config as config_lib
from imagen_jax import pictures
from imagen_jax.data import records as records_lib

KINDS = ('webdataset', 'tfrecord', 'arrayrecord', 'parquet', 'folder', 'tfds')


def pairs(source):
  """Yields a record of each picture that a function of `source` describes."""
  tree = ast.parse((source / '_fetchers.py').read_text())
  for function in ast.walk(tree):
    if not isinstance(function, ast.FunctionDef):
      continue
    caption = (ast.get_docstring(function) or '').split('\n')[0]
    strings = (
      node.value
      for node in ast.walk(function)
      if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    files = (source / text.removeprefix('data/') for text in strings if text)
    for path in files:
      if path.suffix in ('.png', '.jpg', '.gif') and path.is_file():
        yield {'key': path.stem, 'jpg': path.read_bytes(), 'txt': caption}


def as_task(kind, folder, some):
  """Writes records as files of a kind; returns the task."""
  if kind != 'tfds':
    return shard_files.indexed(kind, folder, some)
  import conftest  # Of this folder.

  examples = [
    {'key': one['key'], 'image': one['jpg'], 'captions': [one['txt']]}
    for one in some
  ]
  path = conftest.write(folder, {'train': examples})
  return config_lib.TaskConfig('some', path)


def differing(task, some):
  """Returns the keys of what a source does not give as it was."""
  records = records_lib.Records(
    task, records_lib.open_dataset(task), task.split
  )
  assert len(records) == len(some)
  found = []
  for number, one in enumerate(some):
    record = records.read(number)
    expected = pictures.decode(one['jpg']).image
    same = np.array_equal(record.picture.image, expected)
    if (record.key, record.captions, same) != (one['key'], (one['txt'],), True):
      found.append(one['key'])
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--source', type=pathlib.Path, required=True)
  some = list(pairs(parser.parse_args().source))
  for one in some:
    print(f'{one["key"]}: {one["txt"]}')
  wrong = 0
  for kind in KINDS:
    with tempfile.TemporaryDirectory() as folder:
      found = differing(as_task(kind, pathlib.Path(folder) / kind, some), some)
    print(f'{kind}: {len(some) - len(found)} of {len(some)} as they were')
    wrong += len(found)
  return int(not some or wrong > 0)


if __name__ == '__main__':
  sys.exit(main())
