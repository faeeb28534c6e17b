"""The index of a task's shards: which there are, and where records begin.

A folder with two files. `index.json` has a line's worth of each shard: name,
size, tag, number of records, number of entries, damage. `entries` has the
entries of all shards one behind the other, as little-endian integers: of a tar
in blocks of 512 bytes, of TFRecord and of captions files in bytes, one more
than there are records; of Parquet the first row of each row group. They are of
32 bits where that is enough, and mapped into memory, not read: a record costs 4
bytes of address space, and none of the host's memory until it is looked up.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import logging
import os
import typing

import numpy as np

from imagen_jax.shards import files
from imagen_jax.shards import place as place_lib

FORMAT = 1
TABLE, ENTRIES = 'index.json', 'entries'

# What entries count, in bytes or rows.
UNITS = {'webdataset': 512}

# Bytes of the table: a few hundred a shard.
_MAX_TABLE = 2**28

# Shards that differ, which a message names.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Shard:
  """A shard as it was when it was indexed.

  Attributes:
    name: from the root of the shards.
    size: in bytes.
    tag: see `files.File`.
    records: how many it has.
    entries: how many entries.
    damage: what is wrong with the whole of it, or ''.
  """

  name: str
  size: int
  tag: str
  records: int
  entries: int
  damage: str = ''


def dtype(kind: str, shards: Sequence[files.File | Shard]) -> np.dtype:
  """Returns the type of the entries of such shards."""
  largest = max((shard.size for shard in shards), default=0)
  # A row takes more than a bit, so sizes bound the numbers of rows, too.
  wide = largest // UNITS.get(kind, 1) >= 2**32
  return np.dtype('<u8' if wide else '<u4')


class Index:
  """Where each record of a task's shards lies.

  Attributes:
    kind: of the shards.
    files: the shards, in order; their addresses are of the present place.
    shards: as they were indexed, the same.
    digest: of names, sizes and numbers of records; not of where they lie.
  """

  def __init__(self, kind: str, shards: list[Shard], root: str, entries):
    """Keeps its arguments; `entries` is [sum of the shards'], in units."""
    self.kind = kind
    self.shards = shards
    self.files = [
      files.File(files.join(root, shard.name), shard.size, shard.tag)
      for shard in shards
    ]
    self._unit = UNITS.get(kind, 1)
    self._entries = entries
    counts = [(shard.records, shard.entries) for shard in shards]
    ends = np.cumsum(np.array(counts, np.int64).reshape(-1, 2), axis=0)
    self._record_ends, self._entry_ends = ends[:, 0], ends[:, 1]
    told = [(shard.name, shard.size, shard.records) for shard in shards]
    text = json.dumps([kind, told])
    self.digest = hashlib.sha256(text.encode()).hexdigest()

  def __len__(self) -> int:
    return int(self._record_ends[-1]) if self.shards else 0

  def locate(self, record: int) -> tuple[int, int]:
    """Returns the number of a record's shard, and its number in there."""
    if not 0 <= record < len(self):
      raise IndexError(record)
    shard = int(np.searchsorted(self._record_ends, record, side='right'))
    first = int(self._record_ends[shard]) - self.shards[shard].records
    return shard, record - first

  def entries(self, shard: int) -> np.ndarray:
    """Returns the entries of a shard, in units, a view of the map."""
    stop = int(self._entry_ends[shard])
    return self._entries[stop - self.shards[shard].entries : stop]

  def span(self, shard: int, number: int) -> tuple[int, int]:
    """Returns where a record of a shard begins and ends, in bytes."""
    start, stop = self.entries(shard)[number : number + 2].tolist()
    return start * self._unit, stop * self._unit


def command(task: str) -> str:
  """Returns the command that makes the index of a task."""
  return f'`imagen-jax data index --config CONFIG --task {task}`'


def load(place: place_lib.Place, *, max_missing_share: float) -> Index:
  """Returns the index of shards, having compared it with what is there now.

  Each folder of shards is listed once. An index in a bucket is copied to this
  machine's temporary folder, and is gone when the process ends.

  Args:
    place: of the shards.
    max_missing_share: largest accepted share of records in shards that are
      gone; reading those finds them bad.

  Raises:
    ValueError: where there is no index, or it is not of these shards.
  """
  shards = _shards(place)
  _compare(place, shards, max_missing_share)
  path = files.join(place.index, ENTRIES)
  file = files.stat(path, place.index_field)
  kind = dtype(place.kind, shards)
  total = sum(shard.entries for shard in shards)
  if file is None or file.size != total * kind.itemsize:
    _refuse(place, f'is {place.index!r}, whose {ENTRIES!r} is not whole')
  entries = np.zeros(0, kind)
  if total:
    copy = files.local_copy(file)
    entries = np.memmap(copy, kind, 'r')
    if copy != file.path:
      os.remove(copy)  # The map keeps it until the process ends.
  return Index(place.kind, shards, place.root, entries)


def _shards(place):
  path = files.join(place.index, TABLE)
  file = files.stat(path, place.index_field)
  if file is None:
    _refuse(place, f'has no index in {place.index!r}')
  refusal = f'is {place.index!r}, which is no index of {place.kind}'
  if file.size > _MAX_TABLE:
    _refuse(place, refusal)
  try:
    table = json.loads(file.read(0, file.size))
    told = table['format'], table['kind']
    shards = [_shard(row) for row in table['shards']]
  except (ValueError, TypeError, KeyError, RecursionError):
    _refuse(place, refusal)
  if told != (FORMAT, place.kind):
    _refuse(place, refusal)
  return shards


def _shard(row):
  """Returns a shard by its row; raises ValueError or TypeError without one."""
  shard = Shard(*row)
  for name, kind in typing.get_type_hints(Shard).items():
    if type(getattr(shard, name)) is not kind:
      raise ValueError(f'{name} is no {kind.__name__}')
  if min(shard.size, shard.records, shard.entries) < 0:
    raise ValueError('less than none')
  return shard


def _compare(place, shards, max_missing_share):
  """Raises ValueError unless the shards are those that are there now."""
  there, _ = place_lib.shards(place)
  now = {place_lib.name(place, file): file for file in there}
  known = {shard.name for shard in shards}
  new = [name for name in now if name not in known]
  if new:
    _refuse(place, f'lacks {len(new)} of the shards: {_some(new)}')
  changed = [
    shard.name
    for shard in shards
    if shard.name in now
    and (now[shard.name].size, now[shard.name].tag) != (shard.size, shard.tag)
  ]
  if changed:
    _refuse(
      place,
      f'was made before {len(changed)} of the shards changed: {_some(changed)}',
    )
  gone = [shard for shard in shards if shard.name not in now]
  if not gone:
    return
  lost, total = (sum(s.records for s in some) for some in (gone, shards))
  names = _some([shard.name for shard in gone])
  if lost > max_missing_share * total:
    raise ValueError(
      f'{place.field} is {place.pattern!r}, where {len(gone)} shards of its '
      f'index are gone ({names}) with {lost} of {total} records; accepted: a '
      f'share of data.max_bad_share ({max_missing_share}), or a new index by '
      f'{command(place.task)}'
    )
  logging.warning(
    '%s: %d shards are gone (%s); their %d of %d records are bad',
    *(place.field, len(gone), names, lost, total),
  )


def _some(names):
  more = ', ...' if len(names) > _NAMED else ''
  return ', '.join(names[:_NAMED]) + more


def _refuse(place, what):
  raise ValueError(
    f'{place.index_field} {what}; accepted: what {command(place.task)} writes'
  )
