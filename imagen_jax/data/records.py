"""Text-image records, by number, whatever kind of files they come from.

A record that cannot be used raises `BadRecordError`, or `DroppedRecordError`
where nothing is wrong with it, with one of a few reasons, so that they can be
counted.
"""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import logging
import math
import time
from typing import Protocol

from imagen_jax import config as config_lib
from imagen_jax import pictures
from imagen_jax import storage
from imagen_jax.data import ahead
from imagen_jax.data import captions as captions_lib
from imagen_jax.data import filters
from imagen_jax.data import shard_table
from imagen_jax.data import table as table_lib
from imagen_jax.data import tfds_table
from imagen_jax.shards import files

HELDOUT = shard_table.HELDOUT

# Records of a split, evenly spread, that tell it from another.
_FINGERPRINTED = 16

# Letters of a record's name; the rest of a longer one is left out.
_MAX_KEY = 200

# Records of a bucket that are read at once, each with its picture: one by one,
# so that what is in flight are so many pictures and no more. A disk is read
# faster than threads are asked to.
_READS = 64


class UnreachableError(ValueError):
  """Storage that does not give a record, whatever is in it."""


class BadRecordError(Exception):
  """A record that is damaged; its text is the reason, one of a few."""


class DroppedRecordError(Exception):
  """A record that is sound, but of no use to the stage; as `BadRecordError`."""


@dataclasses.dataclass(frozen=True)
class Record:
  """A usable record.

  Attributes:
    picture: decoded.
    captions: one or more, none of them empty.
    key: its name.
    metadata: {field: value}, of the fields that were asked for and are there.
  """

  picture: pictures.Picture
  captions: tuple[str, ...]
  key: str
  metadata: dict = dataclasses.field(default_factory=dict)


class Dataset(Protocol):
  """What a task's path holds: tables by split.

  Attributes:
    splits: {name: number of records}.
  """

  splits: dict[str, int]

  def table(self, split: str) -> table_lib.Table:
    """Returns the rows of a split; raises ValueError where there are none."""


def open_dataset(
  task: config_lib.TaskConfig, *, max_missing_share: float = 0.0
) -> Dataset:
  """Returns the dataset of a task, opened.

  Args:
    task: its config.
    max_missing_share: largest accepted share of records in shards that are
      gone.

  Raises:
    ValueError: where there is no such dataset, one of another form, or one
      without an index; or a bucket that cannot be read.
  """
  if task.kind == 'tfds':
    return tfds_table.Dataset(task)
  return shard_table.Dataset(task, max_missing_share)


class Records:
  """The records of one split, by number.

  Reading is safe from several threads.

  Attributes:
    name: of the task.
    split: a split's name, or a part of one.
    license: of the pictures, with the attribution that it asks for, or ''.
    min_size: pictures with a shorter side are dropped.
    info: what the dataset says of itself, as bytes.
    selection: which captions of it are used, and how, as bytes; b'' where all
      are, as they are.
  """

  def __init__(
    self,
    task: config_lib.TaskConfig,
    dataset: Dataset,
    split: str,
    *,
    min_size: int = 1,
  ):
    """Opens a split.

    Args:
      task: its name, and what of its records is used.
      dataset: from `open_dataset`.
      split: a split's name, or a part of one such as 'train[:90%]'.
      min_size: pictures with a shorter side are dropped, as by
        `task.min_side`.

    Raises:
      ValueError: where there is no such split, or it is empty.
    """
    self.name = task.name
    self.split = split
    self.min_size = max(min_size, task.min_side)
    self._task = task
    self._max_aspect = task.max_aspect or math.inf
    self._table = dataset.table(split)
    self.license = self._table.license
    self.info = self._table.info
    self.selection = _selection(task)
    self._text = self._table.text_names | {f.field for f in task.filters}
    self._all = self._text | set(self._table.names.image)

  def __len__(self) -> int:
    return len(self._table)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of the split's contents, as far as a few records tell them.

    The same wherever the dataset lies; another for other pictures or captions.
    """

    def of(index):
      try:
        raw = self._patiently(index, self._table.raw, index)
        return hashlib.sha256(raw).digest()
      except BadRecordError:
        return b'unreadable'

    digest = hashlib.sha256(str(len(self)).encode())
    some = range(0, len(self), -(-len(self) // _FINGERPRINTED))
    for found in self._each(of, some):
      digest.update(found)
    return digest.hexdigest()[:32]

  def captions(self, index: int) -> tuple[str, ...]:
    """Returns the usable captions of a record, without decoding its picture.

    Raises:
      BadRecordError: where it has none.
      DroppedRecordError: where they, or the metadata, are not as the task
        wants them.
    """
    return self._captions(self._row(index, self._text))

  def captions_of(self, indices: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Returns the usable captions of records, in their order; () for none."""

    def of(index):
      try:
        return self.captions(index)
      except (BadRecordError, DroppedRecordError):
        return ()

    return self._each(of, indices)

  def _each(self, of, indices):
    """of(index) of each, in order: of a bucket many at once, of a disk one."""
    threads = _READS if files.is_remote(self._task.path) else 1
    return ahead.in_order(of, indices, threads)

  def key(self, index: int) -> str:
    """Returns the name of a record, or '#number' where it has none."""
    try:
      return self._key(index, self._row(index, self._text))
    except BadRecordError:
      return f'#{index}'

  def read(
    self,
    index: int,
    shorter: float | None = None,
    fields: Collection[str] = (),
  ) -> Record:
    """Returns a record, decoded.

    Args:
      index: its number.
      shorter: pixels of the picture's shorter side that suffice; None is all.
      fields: of its metadata, that are returned with it.

    Raises:
      BadRecordError: where it is damaged.
      DroppedRecordError: where its picture is too small, by its header: it is
        not decoded, since most of a set may be; or as `captions`.
      UnreachableError: where storage does not give it, minutes long.
    """
    row = self._row(index, self._all.union(fields) if fields else self._all)
    captions = self._captions(row)
    encoded = self._patiently(index, self._table.picture, row)
    try:
      picture = pictures.decode(
        encoded,
        min_side=self.min_size,
        max_aspect=self._max_aspect,
        shorter=shorter,
      )
    except pictures.TooSmallError:
      raise DroppedRecordError(
        f'shorter side under {self.min_size} pixels'
      ) from None
    except pictures.TooLongError:
      raise DroppedRecordError(
        f'longer side over {self._max_aspect:g} times the shorter'
      ) from None
    except pictures.TooLargeError:
      raise BadRecordError('picture too large') from None
    except pictures.DamagedError as error:
      raise BadRecordError('undecodable picture') from error
    metadata = {name: row[name] for name in fields if name in row}
    return Record(picture, captions, self._key(index, row), metadata)

  def _row(self, index, wanted):
    return self._patiently(index, self._table.row, index, wanted)

  def _patiently(self, index, function, *args):
    """Returns what a table's `function` gives, asked again for minutes."""
    for wait in (*storage.WAITS, None):
      try:
        return function(*args)
      except table_lib.DamagedError as error:
        raise BadRecordError(str(error)) from error
      except OSError as error:
        reason = str(error).split('\n')[0]
        # Nothing is wrong with the record: skipped, it would change what is
        # trained on, by a moment's weather in a network.
        if wait is None:
          raise UnreachableError(
            f'data.tasks[{self.name}]: record {index} of {self.split!r} '
            f'cannot be read: {reason}'
          ) from error
        logging.warning(
          'data.tasks[%s]: record %d of %r was not read, tried again in %d s '
          '(%s)',
          *(self.name, index, self.split, wait, reason),
        )
        time.sleep(wait)

  def _captions(self, row):
    if reason := filters.refused(row, self._task.filters):
      raise DroppedRecordError(reason)
    value = table_lib.first(row, self._table.names.captions)
    try:
      found = captions_lib.usable(value, clean=self._task.clean_captions)
    except captions_lib.NoCaptionError as error:
      raise BadRecordError(str(error)) from None
    least, most = self._task.min_caption, self._task.max_caption
    found = tuple(text for text in found if least <= len(text) <= most)
    if not found:
      raise DroppedRecordError(f'no caption of {least} to {most} characters')
    return found

  def _key(self, index, row):
    key = table_lib.first(row, self._table.names.key)
    if isinstance(key, list):  # As an Example has all values.
      key = key[0] if key else None
    if isinstance(key, int | float):
      return str(key)
    key = table_lib.as_bytes(key).decode(errors='replace')
    # It stands in tables and lists, a line each.
    key = key[:_MAX_KEY]
    if not key.isprintable():
      key = ''.join(c if c.isprintable() else '?' for c in key)
    return key or f'#{index}'


def _selection(task):
  told = [
    (
      one.captions,
      one.min_caption,
      one.max_caption,
      one.clean_captions,
      one.filters,
    )
    for one in (task, config_lib.TaskConfig('', ''))
  ]
  return b'' if told[0] == told[1] else repr(told[0]).encode()
