"""Rows of Parquet shards: a row group is read up to one row, which is taken."""

import collections
import hashlib
import threading

import numpy as np
import pyarrow
from pyarrow import compute

from imagen_jax.data import table as table_lib
from imagen_jax.shards import footers
from imagen_jax.shards import index as index_lib

# Row groups that are remembered: neighbours in an unshuffled order share one,
# and a shuffled one seldom comes back soon.
_GROUPS = 4

# Bytes of rows that are decoded at once, and that are held of a group. A value
# may stand for many rows, in a group that is small by its footer: no row is
# larger than the group, so that a group of so many bytes is read row by row.
_DECODED = 2**26

# Bytes of a list, such as that of a row's captions.
_MAX_LIST = 2**26

# What Arrow says of encodings that it does not read as numbers of values.
_NO_NUMBERS = 'Not yet implemented: DecodeArrow of DictAccumulator'


class _PlainError(Exception):
  """A list that cannot be read as numbers of its texts."""


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
    key = shard, group, frozenset(wanted)
    with self._lock:
      found = self._groups.pop(key, None)
      if found is None:
        found = _Group(self._index.files[shard], group, wanted)
      self._groups[key] = found
      if len(self._groups) > _GROUPS:
        self._groups.popitem(last=False)  # Who reads it has it until then.
    columns = found.row(number - int(starts[group]))
    try:
      return {name: _value(one) for name, one in columns}
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


class _Group:
  """A row group that is decoded from its front on, as rows are asked for."""

  def __init__(self, file, number, wanted):
    self._file, self._number, self._wanted = file, number, wanted
    self._lock = threading.Lock()
    self._batches = None  # What is still to be decoded.
    self._held = []  # (first row, rows), one behind the other.
    self._next = 0
    self._plain = False  # Whether lists are read as they are.

  def row(self, inside):
    """Returns the values of a row, as pairs of a name and Arrow's scalar."""
    with self._lock:
      try:
        batch, first = self._found(inside)
      except _PlainError:
        self._plain = True
        batch, first = self._found(inside)
    names = batch.schema.names
    return [(n, c[inside - first]) for n, c in zip(names, batch.columns)]

  def _found(self, inside):
    try:
      return self._batch(inside)
    except BaseException:
      self._batches, self._held, self._next = None, [], 0
      raise

  def _batch(self, inside):
    if self._batches is None or (self._held and inside < self._held[0][1]):
      self._spans = footers.Spans(self._file)
      self._held, self._next = [], 0
      self._batches = self._decode(self._open)
    self._spans.failed = None
    while self._next <= inside:
      batch = self._decode(self._following)
      held = sum(one.nbytes for one, _ in self._held)
      if held + batch.nbytes > _DECODED:
        self._held = []
      self._held.append((batch, self._next))
      self._next += batch.num_rows
    return next(one for one in reversed(self._held) if one[1] <= inside)

  def _open(self):
    file = footers.open_parquet(self._spans)
    lists = [] if self._plain else _lists(file)
    if lists:
      file = footers.open_parquet(self._spans, read_dictionary=lists)
    group = file.metadata.row_group(self._number)
    columns = [n for n in file.schema_arrow.names if n in self._wanted]
    size = max(1, group.total_byte_size)
    return file.iter_batches(
      max(1, min(_DECODED // size, group.num_rows)),
      row_groups=[self._number],
      columns=columns,
      use_threads=False,  # Others read other rows.
    )

  def _following(self):
    batch = next(self._batches, None)
    if batch is None or not batch.num_rows:
      raise pyarrow.ArrowInvalid('a row group has fewer rows')
    return batch

  def _decode(self, function):
    """Returns function(), its errors told from those of storage."""
    try:
      return function()
    except (pyarrow.ArrowException, OSError) as error:
      if _NO_NUMBERS in str(error) and not self._plain:
        raise _PlainError from error
      # Arrow calls damage an OSError, too: it is storage that failed only
      # where storage says so.
      if self._spans.failed is not None:
        raise self._spans.failed from None
      raise table_lib.DamagedError('unreadable row group') from error


def _lists(file):
  """Names the columns of lists, which may say one text many times over.

  They are read as numbers of texts. (What encodings a file says that it has is
  not asked: of damaged files Arrow ends the process when it is.)
  """
  columns = [file.schema.column(number) for number in range(len(file.schema))]
  return [
    column.path
    for column in columns
    if column.max_repetition_level and column.physical_type == 'BYTE_ARRAY'
  ]


def _value(scalar):
  """Returns a scalar as an object of Python's.

  Raises:
    DamagedError: where it is a list that is too large.
  """
  values = getattr(scalar, 'values', None)
  if isinstance(values, pyarrow.DictionaryArray):
    lengths = compute.binary_length(values.dictionary)
    if (compute.sum(lengths.take(values.indices)).as_py() or 0) > _MAX_LIST:
      raise table_lib.DamagedError('row too large')
  return scalar.as_py()
