"""Rows of a captions file, with pictures in files of their own beside it."""

import errno
import os

from imagen_jax.data import table as table_lib
from imagen_jax.shards import files
from imagen_jax.shards import index as index_lib
from imagen_jax.shards import lines

# Bytes of a picture's file: more is not read.
_MAX_FILE = 2**28
# What the system says of names that are too long, or of links in a circle.
_NO_NAMES = (errno.ENAMETOOLONG, errno.ELOOP)


class Reader:
  """Reads rows of an index of one captions file."""

  def __init__(self, index: index_lib.Index):
    self._index = index
    (self._file,) = index.files
    self._root = self._file.path.rpartition('/')[0]
    self._columns = None
    if self._file.path.endswith('.csv'):
      start, _ = index.span(0, 0)
      try:
        self._columns = lines.columns(self._file.read(0, start))
      except lines.RowError as error:
        raise ValueError(
          f'{self._file.path} has no names of columns: {error}; accepted: a '
          'CSV whose first row has them'
        ) from error

  def row(self, shard: int, number: int, wanted) -> dict:
    """Returns a row of the file; see `table.Table.row`."""
    try:
      return lines.row(self.raw(shard, number, wanted), self._columns)
    except lines.RowError as error:
      raise table_lib.DamagedError(str(error)) from None

  def raw(self, shard: int, number: int, wanted) -> bytes:
    """Returns the bytes of a row; see `table.Table.raw`."""
    del wanted
    start, stop = self._index.span(shard, number)
    if stop - start > lines.MAX_ROW:
      raise table_lib.DamagedError('row too large')
    return self._file.read(start, stop)

  def picture(self, value) -> bytes:
    """Returns what a file holds, which must lie in the folder.

    Raises:
      DamagedError: where it does not, or cannot be read.
      OSError: where storage does not give it.
    """
    if not isinstance(value, str) or not value:
      raise table_lib.DamagedError('row without a file')
    try:
      data = files.read_whole(self._inside(value), _MAX_FILE)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
      raise table_lib.DamagedError('missing file') from None
    except UnicodeError:  # A name that no file can have.
      raise table_lib.DamagedError('missing file') from None
    except OSError as error:
      if error.errno in _NO_NAMES:
        raise table_lib.DamagedError('missing file') from None
      raise
    if len(data) > _MAX_FILE:
      raise table_lib.DamagedError('file too large')
    return data

  def _inside(self, name):
    path = os.path.normpath(f'/{name}')[1:]
    climbs = '..' in name.split('/') or name.startswith('/') or '\0' in name
    name.encode()  # Of what a bucket would call weather.
    if climbs or not path:
      raise table_lib.DamagedError('file outside the folder')
    address = files.join(self._root, path)
    if files.is_remote(address):
      return address
    # Links may lead anywhere.
    root, real = os.path.realpath(self._root), os.path.realpath(address)
    if os.path.commonpath([root, real]) != root:
      raise table_lib.DamagedError('file outside the folder')
    return real
