"""Shards with an index, as tables: of tar, TFRecord, ArrayRecord, Parquet."""

import hashlib
import json

from imagen_jax import config as config_lib
from imagen_jax.data import array_records
from imagen_jax.data import examples
from imagen_jax.data import folder_table
from imagen_jax.data import parquet_table
from imagen_jax.data import table as table_lib
from imagen_jax.shards import files
from imagen_jax.shards import index as index_lib
from imagen_jax.shards import place as place_lib
from imagen_jax.shards import tar
from imagen_jax.shards import tfrecord

TRAIN, HELDOUT = 'train', 'heldout'

# Bytes of a record: more is no picture, and is not read.
_MAX_RECORD = array_records.MAX_RECORD

# And of a record's JSON in a tar, which takes thirty times as much once it is
# parsed.
_MAX_JSON = 2**20

# And of a licence, which is shown under pictures.
_MAX_LICENSE = 2**16


class Dataset:
  """The shards of a task; the last records are held out.

  Attributes:
    splits: {name: number of records}.
  """

  def __init__(self, task: config_lib.TaskConfig, max_missing_share: float):
    """Opens the index.

    Args:
      task: whose kind has an index.
      max_missing_share: largest accepted share of records in shards that are
        gone.

    Raises:
      ValueError: where there is none that fits the shards.
    """
    self._task = task
    place = place_lib.of(task)
    self._index = index_lib.load(place, max_missing_share=max_missing_share)
    self._license = _license(place)
    self._read = _READERS[task.kind](self._index)
    size = len(self._index)
    if task.heldout >= size:
      raise ValueError(
        f'data.tasks[{task.name}].heldout is {task.heldout} of {size} records; '
        'accepted: fewer'
      )
    self._rows = {TRAIN: range(size - task.heldout)}
    if task.heldout:
      self._rows[HELDOUT] = range(size - task.heldout, size)
    self.splits = {split: len(rows) for split, rows in self._rows.items()}

  def table(self, split: str) -> table_lib.Table:
    """Returns the rows of a split.

    Raises:
      ValueError: where there is no such split.
    """
    if split not in self._rows:
      raise ValueError(
        f'data.tasks[{self._task.name}].split is {split!r}; accepted: one of '
        f'{sorted(self._rows)}'
      )
    names = table_lib.names(self._task)
    return _Table(
      names, self._index, self._read, self._rows[split], self._license
    )


def _license(place):
  """Returns the licence that a build has laid beside its shards, or ''."""
  if place.kind != 'arrayrecord':
    return ''
  path = files.join(place.root, place_lib.LICENSE)
  file = files.stat(path, place.field)
  return file.read(0, _MAX_LICENSE).decode(errors='replace') if file else ''


class _Table(table_lib.Table):
  """Some of the records of an index."""

  def __init__(self, names, index, reader, rows, license):
    super().__init__(names, license, index.digest.encode())
    self._index, self._reader, self._rows = index, reader, rows

  def __len__(self):
    return len(self._rows)

  def row(self, index, wanted):
    return self._read(self._reader.row, index, wanted)

  def raw(self, index):
    wanted = self.text_names | set(self.names.image)
    return self._read(self._reader.raw, index, wanted) + self._apart(index)

  def _apart(self, index):
    """Returns what tells a picture from another that a row only names."""
    if not isinstance(self._reader, folder_table.Reader):
      return b''
    try:
      picture = self.picture(self.row(index, self.names.image))
    except table_lib.DamagedError as error:
      return str(error).encode()
    # All bytes: a time of change would be another wherever files are copied.
    return hashlib.sha256(picture).digest()

  def picture(self, row):
    value = table_lib.first(row, self.names.image)
    return self._reader.picture(value)

  def _read(self, function, index, wanted):
    shard, number = self._index.locate(self._rows[index])
    try:
      return function(shard, number, wanted)
    except FileNotFoundError as error:
      raise table_lib.DamagedError('shard is gone') from error
    except files.ChangedError as error:
      raise table_lib.DamagedError('shard has changed') from error


class _Reader:
  """Reads the records of an index, by shard and number there."""

  def __init__(self, index: index_lib.Index):
    self._index = index

  def row(self, shard, number, wanted):
    del wanted  # A record is read whole.
    return self._parse(self.raw(shard, number, ()))

  def raw(self, shard, number, wanted):
    del wanted
    start, stop = self._index.span(shard, number)
    if stop - start > _MAX_RECORD:
      raise table_lib.DamagedError('record too large')
    data = self._index.files[shard].read(start, stop)
    if len(data) < stop - start:
      raise table_lib.DamagedError('shard is cut')
    return data

  def picture(self, value):
    return table_lib.as_bytes(value)


class _Tar(_Reader):
  """WebDataset: a row has the members of a record, and those of its JSON."""

  def _parse(self, data):
    try:
      row = tar.fields(data)
    except tar.HeaderError as error:
      raise table_lib.DamagedError('unreadable record') from error
    if len(row.get('json', b'')) > _MAX_JSON:
      raise table_lib.DamagedError('JSON too large')
    try:
      more = json.loads(row.get('json', b'{}'))
    except (ValueError, RecursionError):
      more = {}  # What is looked for in it is absent.
    return {**more, **row} if isinstance(more, dict) else row


class _TFRecord(_Reader):
  """TFRecord files of Examples."""

  def _parse(self, data):
    try:
      return examples.parse(tfrecord.content(data))
    except tfrecord.RecordError as error:
      raise table_lib.DamagedError('unreadable record') from error


class _ArrayRecord(_Reader):
  """ArrayRecord files of Examples."""

  def __init__(self, index):
    super().__init__(index)
    self._source = array_records.Source(
      [
        array_records.Part(
          file.path, 0, shard.records, shard.records, file=file
        )
        for file, shard in zip(index.files, index.shards)
      ]
    )

  def raw(self, shard, number, wanted):
    del wanted
    remote = files.is_remote(self._index.files[shard].path)
    read = self._source.read
    return array_records.told(read, shard, number, remote=remote)

  def _parse(self, data):
    return examples.parse(data)


_READERS = {
  'webdataset': _Tar,
  'tfrecord': _TFRecord,
  'arrayrecord': _ArrayRecord,
  'parquet': parquet_table.Reader,
  'folder': folder_table.Reader,
}
