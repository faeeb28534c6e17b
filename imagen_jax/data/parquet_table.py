"""Rows of Parquet shards: a row group is read, and one row of it taken."""

import collections
import hashlib
import threading

import numpy as np
import pyarrow

from imagen_jax.data import table as table_lib
from imagen_jax.shards import footers
from imagen_jax.shards import index as index_lib

# Row groups that are remembered: neighbours in an unshuffled order share one,
# and a shuffled one seldom comes back soon.
_GROUPS = 4


class Reader:
  """Reads rows of an index of Parquet files, of the wanted columns alone."""

  def __init__(self, index: index_lib.Index):
    self._index = index
    self._groups = collections.OrderedDict()
    self._lock = threading.Lock()

  def row(self, shard: int, number: int, wanted) -> dict:
    """Returns a row of a shard; see `table.Table.row`."""
    starts = self._index.entries(shard)
    group = int(np.searchsorted(starts, number, side='right')) - 1
    rows = self._group(shard, group, frozenset(wanted))
    inside = number - int(starts[group])
    try:
      return {
        name: rows.column(name)[inside].as_py() for name in rows.column_names
      }
    # Text that is not UTF-8, times out of all bounds, a name that comes twice.
    except (ValueError, KeyError, OverflowError) as error:
      raise table_lib.DamagedError('unreadable row') from error

  def raw(self, shard: int, number: int, wanted) -> bytes:
    """Returns a digest of the wanted values; see `table.Table.raw`."""
    row = self.row(shard, number, wanted)
    return hashlib.sha256(repr(sorted(row.items())).encode()).digest()

  def picture(self, value) -> bytes:
    """Returns the bytes of a picture's value."""
    return table_lib.as_bytes(value)

  def _group(self, shard, group, wanted):
    key = shard, group, wanted
    with self._lock:
      if key in self._groups:
        self._groups.move_to_end(key)
        return self._groups[key]
    found = self._read(shard, group, wanted)
    with self._lock:
      self._groups[key] = found
      if len(self._groups) > _GROUPS:
        self._groups.popitem(last=False)
    return found

  def _read(self, shard, group, wanted):
    spans = footers.Spans(self._index.files[shard])
    try:
      file = footers.open_parquet(spans)
      columns = [name for name in file.schema_arrow.names if name in wanted]
      # One thread: others read other rows.
      return file.read_row_group(group, columns, use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
      # Arrow calls damage an OSError, too: it is storage that failed only
      # where storage says so.
      if spans.failed is not None:
        raise spans.failed from None
      raise table_lib.DamagedError('unreadable row group') from error
