"""Records of ArrayRecord shards, bounded, and their errors told apart."""

import bisect
import collections
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import itertools
import os
import re
import resource
import threading

from array_record.python import array_record_module

from imagen_jax.data import table as table_lib
from imagen_jax.shards import array_record
from imagen_jax.shards import files

# Bytes of a record, or of the group that it is compressed in: more is no
# picture, and is not read.
MAX_RECORD = 2**28

# Shards that are open at once: half of the files that a process may have.
OPEN = max(64, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))

# What storage is to blame for. Of local files that is what calls of the system
# say ('pread() failed: Input/output error'); what a bucket says is told from
# damage by what is known of damage.
_STORAGE = re.compile(r'\(\) failed|Permanent error|Retry policy')
_DAMAGE = re.compile(
  r'Corrupted Riegeli|RiegeliPostscript|at least 64KB|out of bound|'
  'chunk boundary|Invalid|Unsupported|magic|decod'
)
_OPTIONS = 'readahead_buffer_size:0'


@dataclasses.dataclass(frozen=True)
class Part:
  """Some records of a shard.

  Attributes:
    path: of the shard.
    skip: how many records stand in front of them.
    take: how many they are.
    count: how many the shard has.
    file: what it was when it was indexed; None is what it is when it is opened.
  """

  path: str
  skip: int
  take: int
  count: int
  file: files.File | None = None


class Source:
  """The records of parts of shards. Reading is safe from several threads."""

  def __init__(self, parts: Sequence[Part]):
    """Keeps its arguments; nothing is opened."""
    self._parts = parts
    self._ends = list(itertools.accumulate(part.take for part in parts))
    self._known = {}
    self._open = collections.OrderedDict()
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> bytes:
    """Returns a record; raises as `read` does."""
    part = bisect.bisect_right(self._ends, index)
    before = self._ends[part - 1] if part else 0
    return self.read(part, index - before)

  def read(self, part: int, number: int) -> bytes:
    """Returns a record of a part.

    Raises:
      FileNotFoundError: where its shard is gone.
      files.ChangedError: where it is another.
      table.DamagedError: where it, or the shard, is damaged or too large.
      OSError, RuntimeError: whatever else was met; see `told`.
    """
    where = self._parts[part]
    number += where.skip
    known, reader = self._opened(where)
    known.check(number)
    return reader.read([number])[0]

  def _opened(self, part):
    """Returns a shard, opened when it is first read, and closed once unused."""
    with self._lock:
      known, reader = self._known.get(part.path), self._open.get(part.path)
      if reader is not None:
        self._open.move_to_end(part.path)
    if known is None:
      known = _Shard(part)
    known.check_same(now=reader is None)
    if reader is None:
      reader = array_record_module.ArrayRecordReader(
        part.path, options=_OPTIONS, file_reader_buffer_size=2**15
      )
      if reader.num_records() != part.count:
        raise table_lib.DamagedError('shard is cut')
      with self._lock:
        self._known[part.path] = known
        reader = self._open.setdefault(part.path, reader)
        if len(self._open) > OPEN:
          self._open.popitem(last=False)  # Who reads it has it until then.
    return known, reader


class _Shard:
  """What is known of a shard, open or not."""

  def __init__(self, part):
    self._file = part.file or _stat(part.path)
    self.check_same(now=True)
    self._ends, self._sizes = None, None
    try:
      numbers, sizes = array_record.chunks(self._file)
    except array_record.FooterError as error:
      raise table_lib.DamagedError('unreadable record') from error
    if max(sizes, default=0) > MAX_RECORD:
      self._ends, self._sizes = list(itertools.accumulate(numbers)), sizes

  def check_same(self, now):
    """Checks that the file is the same; one in a bucket, where `now` says."""
    path = self._file.path
    if files.is_remote(path):
      found = _stat(path) if now else self._file
    else:
      found = files.of_status(path, os.stat(path))
    if (found.size, found.tag) != (self._file.size, self._file.tag):
      raise files.ChangedError(f'{path} has changed since it was indexed')

  def check(self, number):
    """Checks that a record is not too large to be unpacked."""
    if self._ends is None:
      return
    chunk = bisect.bisect_right(self._ends, number)
    if chunk < len(self._sizes) and self._sizes[chunk] > MAX_RECORD:
      raise table_lib.DamagedError('record too large')


def _stat(path):
  try:
    found = files.stat(path, 'a shard')
  except ValueError as error:
    raise OSError(str(error)) from error
  if found is None:
    raise FileNotFoundError(path)
  return found


def told(function: Callable, *args, remote: bool = False):
  """Returns function(*args), which reads a record; its errors told apart.

  Args:
    function: such as `Source.read`.
    *args: what it is called with.
    remote: whether it reads from a bucket.

  Raises:
    DamagedError: where the bytes are not those that were written, or the shard
      is gone or another.
    OSError: where storage does not give them.
  """
  try:
    return function(*args)
  except FileNotFoundError as error:
    raise table_lib.DamagedError('shard is gone') from error
  except files.ChangedError as error:
    raise table_lib.DamagedError('shard has changed') from error
  except (RuntimeError, IndexError, ValueError) as error:
    text = str(error)
    if not _STORAGE.search(text) and (not remote or _DAMAGE.search(text)):
      raise table_lib.DamagedError('unreadable record') from error
    raise OSError(text.splitlines()[0]) from error
