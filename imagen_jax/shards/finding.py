"""Which shards a pattern names, on this machine or in a bucket."""

import glob
import os

from imagen_jax import storage
from imagen_jax.shards import files
from imagen_jax.shards import patterns


def find(pattern: str, field: str) -> tuple[list[files.File], list[str]]:
  """Returns the files that a pattern names, in its order, and what is missing.

  Braces are expanded in their order, and what a star stands for is sorted. A
  folder is listed once, however many of its files are asked for.

  Args:
    pattern: of addresses; see `patterns.expand`.
    field: that holds it, for errors.

  Raises:
    ValueError: where the pattern is malformed, or a bucket cannot be listed.
  """
  found, missing = {}, []
  folders = {}
  for path in patterns.expand(pattern, field):
    if patterns.is_glob(path):
      matches = _glob(path, field)
      found.update((file.path, file) for file in matches)
      if not matches:
        missing.append(path)
      continue
    folder, _, name = path.rpartition('/')
    if folder not in folders:
      folders[folder] = _list(folder, field)
    if name in folders[folder]:
      found[path] = folders[folder][name]
    else:
      missing.append(path)
  return list(found.values()), missing


def _list(folder, field):
  """Returns {name: File} of a folder; nothing where there is none."""
  if not files.is_remote(folder):
    try:
      names = os.listdir(folder or '.')
    except (FileNotFoundError, NotADirectoryError):
      return {}
    found = ((n, files.stat(files.join(folder, n), field)) for n in names)
    return {name: file for name, file in found if file}
  try:
    entries = files.filesystem(folder).ls(folder, detail=True)
  except FileNotFoundError:
    return {}
  except Exception as error:  # Each file layer raises errors of its own.
    raise storage.refusal(field, folder, 'listed', error) from error
  names = ((info['name'].rpartition('/')[2], info) for info in entries)
  return {
    name: files.of_info(files.join(folder, name), info)
    for name, info in names
    if info['type'] == 'file'
  }


def _glob(path, field):
  """Returns the files that a path with stars stands for, sorted."""
  if not files.is_remote(path):
    names = sorted(glob.glob(path))
    return [files.of_status(n, os.stat(n)) for n in names if os.path.isfile(n)]
  scheme = path.split('://')[0]
  try:
    found = files.filesystem(path).glob(path, detail=True)
  except Exception as error:  # Each file layer raises errors of its own.
    raise storage.refusal(field, path, 'listed', error) from error
  return [
    files.of_info(f'{scheme}://{name.lstrip("/")}', info)
    for name, info in sorted(found.items())
    if info['type'] == 'file'
  ]
