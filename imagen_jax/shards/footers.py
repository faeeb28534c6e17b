"""Shards that say themselves what they hold: Parquet and ArrayRecord."""

import array
from collections.abc import Sequence
import io

from array_record.python import array_record_module
import pyarrow
from pyarrow import parquet

from imagen_jax.shards import array_record
from imagen_jax.shards import files
from imagen_jax.shards import scan as scan_lib

# Bytes of a row group, decompressed: one is held to read one of its rows.
MAX_GROUP = 2**29


class Spans(io.RawIOBase):
  """A file as Arrow reads one: by seeking.

  Attributes:
    failed: the OSError with which storage refused to read, or None.
  """

  def __init__(self, file: files.File):
    super().__init__()
    self._file, self._place = file, 0
    self.failed = None

  def readable(self) -> bool:
    """Returns True."""
    return True

  def seekable(self) -> bool:
    """Returns True."""
    return True

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    """Goes to a place, and returns it."""
    base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: 0}[whence]
    if whence == io.SEEK_END:
      base = self._file.size
    self._place = base + offset
    return self._place

  def tell(self) -> int:
    """Returns the place."""
    return self._place

  def readinto(self, buffer) -> int:
    """Fills `buffer`, and returns how much of it."""
    stop = min(self._place + len(buffer), self._file.size)
    data = b''
    if self._place < stop:
      try:
        data = self._file.read(self._place, stop)
      except OSError as error:
        self.failed = error
        raise
    buffer[: len(data)] = data
    self._place += len(data)
    return len(data)


def open_parquet(
  spans: Spans, *, read_dictionary: Sequence[str] = ()
) -> parquet.ParquetFile:
  """Returns a Parquet file, opened.

  Args:
    spans: the file.
    read_dictionary: paths of columns that are read as dictionaries.

  Raises:
    pyarrow.ArrowException: where it is none.
    OSError: the same; or storage does not give it, which is `spans.failed`.
  """
  return parquet.ParquetFile(
    pyarrow.PythonFile(spans, mode='r'), read_dictionary=list(read_dictionary)
  )


def scan_parquet(file: files.File) -> scan_lib.Scan:
  """Returns the first row of each row group, and the number of rows."""
  starts = array.array('Q', [0])
  spans = Spans(file)
  try:
    metadata = open_parquet(spans).metadata
  except (pyarrow.ArrowException, OSError) as error:
    if spans.failed is not None:
      raise
    reason = str(error).splitlines()[0]
    return scan_lib.Scan(0, starts, f'it is no Parquet file: {reason}')
  for number in range(metadata.num_row_groups):
    group = metadata.row_group(number)
    if group.total_byte_size > MAX_GROUP:
      return scan_lib.Scan(
        0,
        array.array('Q', [0]),
        f'a row group has {group.total_byte_size:,} bytes, over {MAX_GROUP:,}',
      )
    starts.append(starts[-1] + group.num_rows)
  return scan_lib.Scan(starts[-1], starts)


def scan_array_record(file: files.File) -> scan_lib.Scan:
  """Returns the number of records; ArrayRecord itself finds them."""
  damage = ''
  try:
    array_record.chunks(file)  # What it holds is bounded before it is opened.
  except array_record.FooterError as error:
    damage = str(error)
  try:
    if not damage:
      reader = array_record_module.ArrayRecordReader(file.path)
      count = reader.num_records()
      reader.close()
  except (RuntimeError, OSError) as error:
    damage = str(error).splitlines()[0]
  if damage:
    damage = f'it is no ArrayRecord file: {damage}'
    return scan_lib.Scan(0, array.array('Q'), damage)
  return scan_lib.Scan(count, array.array('Q'))
