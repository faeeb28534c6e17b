"""Files of a store that is being written, each whole or not at all.

Paths are resolved (`files.resolve`): of a folder that all hosts see, or of a
bucket, gs://..., where an object appears when all of it has been sent.
"""

import contextlib
import json
import os
import shutil
import tempfile
import uuid

import tensorstore as ts

from imagen_jax import storage
from imagen_jax.text import files

FIELD = '--out'
# What a process killed amid a write leaves, beside the file's name.
_UNFINISHED = '.tmp'


def write(path: str, contents: bytes) -> None:
  """Writes a file.

  Raises:
    ValueError: where a bucket does not take it.
    OSError: where a folder does not.
  """
  if not storage.is_bucket(path):
    with staged(path) as local, open(local, 'wb') as file:
      file.write(contents)
    return
  folder, _, name = path.rpartition('/')
  try:
    storage.open_folder(folder).write(name, contents).result()
  except ValueError as error:
    raise _unwritable(path, error) from error


@contextlib.contextmanager
def staged(path: str):
  """Gives the name of a local file to write, which then becomes `path`.

  Where that is in a bucket, the file is held in memory as it is sent.
  """
  if not storage.is_bucket(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # A name of its own: of a run that was killed in part, the other hosts
    # write on for a while beside the run that takes its place.
    local = f'{path}{_UNFINISHED}-{uuid.uuid4().hex}'
    yield local
    with open(local, 'rb') as file:
      os.fsync(file.fileno())  # Safe on disk before it has its name.
    os.replace(local, path)
    return
  with tempfile.TemporaryDirectory() as folder:
    local = os.path.join(folder, 'file')
    yield local
    with open(local, 'rb') as file:
      write(path, file.read())


def write_json(path: str, value) -> None:
  """Writes a file of JSON."""
  write(path, json.dumps(value, indent=1).encode() + b'\n')


def read_json(paths: list[str]) -> list:
  """Returns what files of JSON hold, None for those that are not there."""
  found = files.read_spans([(path, None, None) for path in paths], FIELD)
  return [None if each is None else json.loads(each) for each in found]


def remove(*paths: str) -> None:
  """Removes files, those that are there; of a bucket side by side."""
  opened, removing = {}, {}
  try:
    for path in paths:
      if not storage.is_bucket(path):
        with contextlib.suppress(FileNotFoundError):
          os.remove(path)
        continue
      folder, _, name = path.rpartition('/')
      if folder not in opened:
        opened[folder] = storage.open_folder(folder)
      removing[path] = opened[folder].write(name, None)
    for path in removing:
      removing[path].result()
  except ValueError as error:
    raise _unwritable(path, error) from error


def remove_folders(path: str, prefix: str) -> None:
  """Removes the folders in `path` whose names start with `prefix`."""
  if not storage.is_bucket(path):
    for name in os.listdir(path):
      if name.startswith(prefix):
        shutil.rmtree(os.path.join(path, name))
    return
  try:
    keys = ts.KvStore.KeyRange(prefix, files.after(prefix))
    storage.open_folder(path).delete_range(keys).result()
  except ValueError as error:
    raise _unwritable(path, error) from error


def _unwritable(path, error):
  reason = storage.refusal(FIELD, path, 'written', error)
  return ValueError(
    f'{reason}; accepted: a folder, or a bucket that this machine may write'
  )
