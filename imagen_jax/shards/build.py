"""Making an index: shards scanned by many processes, or many machines.

Each shard's entries are written when it has been scanned, so that a build that
was killed goes on, and machines may share the shards. The last build to run
puts them together. Memory: the entries of a shard for each process.
"""

from collections.abc import Callable
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import tempfile

import numpy as np

from imagen_jax.shards import files
from imagen_jax.shards import footers
from imagen_jax.shards import index as index_lib
from imagen_jax.shards import lines
from imagen_jax.shards import place as place_lib
from imagen_jax.shards import tar
from imagen_jax.shards import tfrecord

_SCANS = {
  'arrayrecord': footers.scan_array_record,
  'tfrecord': tfrecord.scan,
  'webdataset': tar.scan,
  'parquet': footers.scan_parquet,
  'folder': lines.scan,
}
_PARTS = 'shards'

# Scanned shards that are fetched at once, to be put together.
_FETCHED = 64


@dataclasses.dataclass(frozen=True)
class Report:
  """What a build has found.

  Attributes:
    shards: how many.
    records: in all of them.
    missing: shards that the pattern names and that are not there.
    damaged: 'name: what is wrong', of shards that are, as a whole.
    done: whether the index is whole, and written.
  """

  shards: int
  records: int
  missing: list[str]
  damaged: list[str]
  done: bool


def build(
  place: place_lib.Place,
  *,
  workers: int = 1,
  part: tuple[int, int] = (0, 1),
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
  """Writes the index of a task's shards.

  Args:
    place: of the shards.
    workers: processes that scan.
    part: which of how many parts of the shards are scanned here, from 0. With
      several, the index is put together by a build of all, which finds the
      shards scanned.
    progress: is told how many shards are done, of how many here.

  Raises:
    ValueError: where there are no shards or no records in them, or a place
      cannot be read or written.
    OSError: where storage does not give a shard.
  """
  found, missing = place_lib.shards(place)
  numbers = range(part[0], len(found), part[1])
  scan = functools.partial(_scan, place)
  shards = []
  with contextlib.ExitStack() as stack:
    run = map
    if workers > 1 and len(numbers) > 1:
      pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(numbers)),
        # A fork of a process with threads can hang.
        mp_context=multiprocessing.get_context('spawn'),
      )
      run = stack.enter_context(pool).map
    for shard in run(scan, numbers, (found[number] for number in numbers)):
      shards.append(shard)
      progress(len(shards), len(numbers))
  records = sum(shard.records for shard in shards)
  damaged = [
    f'{shard.name}: {shard.damage}' for shard in shards if shard.damage
  ]
  if part[1] == 1:
    if not records:
      raise ValueError(
        f'{place.field} is {place.pattern!r}, which has no records in '
        f'{len(shards)} shards{_first(damaged)}; accepted: one at least'
      )
    _join(place, found, shards)
  return Report(len(shards), records, missing, damaged, part[1] == 1)


def _first(damaged):
  return f' ({damaged[0]})' if damaged else ''


def _part(place, number):
  return files.join(place.index, f'{_PARTS}/{number:07d}')


def _scan(place, number, file):
  """Returns a shard's row, having written it with its entries."""
  path = _part(place, number)
  name = place_lib.name(place, file)
  done = files.stat(path, place.index_field)
  if done is not None:
    head = done.read(0, done.size).partition(b'\n')[0]
    shard = index_lib.Shard(*json.loads(head))
    if (shard.name, shard.size, shard.tag) == (name, file.size, file.tag):
      return shard
  found = _SCANS[place.kind](file)
  shard = index_lib.Shard(
    *(name, file.size, file.tag, found.records),
    *(len(found.entries), found.damage),
  )
  entries = np.array(found.entries, '<u8')
  head = json.dumps(dataclasses.astuple(shard)).encode()
  files.write(path, head + b'\n' + entries.tobytes(), place.index_field)
  return shard


def _join(place, found, shards):
  """Writes the index from what was written of each shard."""
  unit = index_lib.UNITS.get(place.kind, 1)
  kind = index_lib.dtype(place.kind, found)

  def fetch(number):
    path = _part(place, number)
    part = files.stat(path, place.index_field)
    data = part.read(0, part.size).partition(b'\n')[2]
    return (np.frombuffer(data, '<u8') // unit).astype(kind)

  beside = None
  if not files.is_remote(place.index):
    beside = place.index
  handle, local = tempfile.mkstemp(dir=beside)
  try:
    with (
      open(handle, 'wb') as file,
      concurrent.futures.ThreadPoolExecutor(_FETCHED // 2) as pool,
    ):
      for start in range(0, len(shards), _FETCHED):
        some = range(start, min(start + _FETCHED, len(shards)))
        for entries in pool.map(fetch, some):
          file.write(entries.tobytes())
    os.chmod(local, 0o644)  # As other files; a temporary one is its owner's.
    path = files.join(place.index, index_lib.ENTRIES)
    files.upload(local, path, place.index_field)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.remove(local)
  table = {
    'format': index_lib.FORMAT,
    'kind': place.kind,
    'shards': [dataclasses.astuple(shard) for shard in shards],
  }
  path = files.join(place.index, index_lib.TABLE)
  # Last: who finds it finds the entries, too.
  files.write(path, json.dumps(table).encode(), place.index_field)
  files.remove_folder(files.join(place.index, _PARTS))
