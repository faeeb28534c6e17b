"""Files in local folders and in buckets (gs://...), by one layer everywhere.

`Path` is that of etils, which Orbax and TFDS take as well. For gs:// it would
take TensorFlow wherever that is installed; here it takes gcsfs, in all
processes alike, so that those that sample or export need no TensorFlow. What is
to be read or written in one piece, or told in one line where it cannot be, goes
through TensorStore, which fails within seconds and names its reason.

A run is to write one bucket from many hosts: nothing here remembers listings.
"""

import os

# Read when the first gs:// path is used, and when gcsfs is imported. The second
# one is its support of zonal buckets, which asks for a bucket's kind by gRPC,
# again and again where it gets no answer. Who sets them otherwise is obeyed.
os.environ.setdefault('EPATH_USE_TF', 'false')
os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')

from etils import epath
import fsspec.config
import tensorstore as ts

Path = epath.Path

# gcsfs would keep a folder's listing for ever, and not see what another host
# has written since.
fsspec.config.conf.setdefault('gcs', {}).setdefault('use_listings_cache', False)

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
# Seconds until an answer about a bucket is given up.
_PATIENCE = 20
# Seconds to wait, one after the other, before storage is asked again: by what
# goes on for days and is not to end by a moment's weather in a network.
WAITS = (1, 2, 4, 8, 15, 30, 30, 30)
# Written, and removed, to learn whether a folder can be written.
_PROBE = '.imagen_jax_probe'


def is_bucket(path) -> bool:
  """Returns whether a path lies in a bucket."""
  return os.fspath(path).startswith('gs://')


def kvstore(path: str, *, folder: bool) -> dict:
  """Returns the TensorStore spec of a gs:// address or an absolute path."""
  end = '/' if folder else ''
  if is_bucket(path):
    bucket, _, inside = path.removeprefix('gs://').partition('/')
    inside = inside + end if inside else ''
    return {'driver': 'gcs', 'bucket': bucket, 'path': inside}
  return {'driver': 'file', 'path': path.rstrip('/') + end}


def open_folder(path: str) -> ts.KvStore:
  """Returns the files of a folder, by name: gs://... or an absolute path.

  Raises:
    ValueError: where TensorStore takes no such address.
  """
  spec = kvstore(path, folder=True)
  return ts.KvStore.open(spec, context=CONTEXT).result()


def read(path, field: str) -> bytes | None:
  """Returns the bytes of a file, or None where there is none.

  Args:
    path: of the file.
    field: that names it or its folder, for errors.

  Raises:
    ValueError: where the bucket cannot be reached or the file not be read.
  """
  path = os.fspath(path)
  if not is_bucket(path):
    path = os.path.abspath(path)
    if not os.path.isfile(path):
      return None
  try:
    store, name = _open(path)
    result = store.read(name).result()
  except ValueError as error:
    raise refusal(field, path, 'read', error) from error
  return bytes(result.value) if result.state == 'value' else None


def write(path, data: bytes, field: str) -> None:
  """Writes a file, in a bucket or here: whole, or not at all.

  A local one is on the disk when this returns, and its folders are made.

  Raises:
    ValueError: where the bucket cannot be reached or the file not be written.
  """
  path = os.fspath(path)
  if not is_bucket(path):
    path = os.path.abspath(path)
  try:
    store, name = _open(path)
    store.write(name, data).result()
  except ValueError as error:
    raise refusal(field, path, 'written', error) from error


def check_writable(path, field: str) -> None:
  """Raises ValueError where a bucket's folder cannot be written; else nothing.

  To be asked by one host before the work: what cannot be written is learned
  otherwise when there is something to write. Local folders are made then.
  """
  path = os.fspath(path)
  if not is_bucket(path):
    return
  try:
    store, name = _open(f'{path.rstrip("/")}/{_PROBE}')
    store.write(name, b'').result()
    store.write(name, None).result()
  except ValueError as error:
    raise refusal(field, path, 'written', error) from error


def check_bucket(path, field: str) -> None:
  """Raises ValueError where nothing can be learned of a path's bucket.

  Orbax asks for the bucket itself wherever it opens checkpoints, which takes
  the right storage.buckets.get; roles that are about objects do not have it.
  """
  path = os.fspath(path)
  if not is_bucket(path):
    return
  from google.api_core import exceptions
  from google.auth import exceptions as auth
  from google.cloud import storage

  name = path.removeprefix('gs://').partition('/')[0]
  try:
    storage.Client().get_bucket(name, retry=None, timeout=_PATIENCE)
  except exceptions.NotFound:
    raise refusal(field, path, 'used', f'there is no bucket {name}') from None
  except exceptions.Forbidden as error:
    reason = f'{error.message}; it takes the right storage.buckets.get'
    raise refusal(field, path, 'used', reason) from error
  except (exceptions.GoogleAPIError, auth.GoogleAuthError, OSError) as error:
    raise refusal(field, path, 'used', error) from error


def refusal(field: str, path: str, verb: str, error) -> ValueError:
  """Returns the one-line error of what storage refused."""
  # The cause stands first; TensorStore appends its source positions.
  reason = str(error).split('\n')[0].split(' [')[0]
  return ValueError(f'{field} {path} cannot be {verb}: {reason}')


def _open(path):
  """Returns the files of a path's folder, and the name inside."""
  folder, _, name = path.rpartition('/')
  return open_folder(folder), name
