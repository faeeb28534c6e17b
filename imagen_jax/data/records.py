"""Random access to the text-image records of a TFDS dataset.

A dataset is a folder that TFDS wrote in ArrayRecord form, with the features
`image` (an encoded picture), `captions` (several texts) or `caption` (one),
and, if it has one, `key` (a name that a person can look up).

A record that cannot be used raises `BadRecordError`, or `DroppedRecordError`
where nothing is wrong with it, with one of a few reasons, so that they can be
counted.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import logging
import os
import time

from google.protobuf import message
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from imagen_jax import pictures
from imagen_jax import storage
from imagen_jax.data import ahead

HELDOUT = 'heldout'

# How ArrayRecord says that a file's bytes are not those that were written.
_CORRUPT = 'Corrupted Riegeli'

# Records of a split, evenly spread, that tell it from another.
_FINGERPRINTED = 16

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
    image: uint8 [H, W, 3].
    captions: one or more, none of them empty.
    key: its name.
  """

  image: np.ndarray
  captions: tuple[str, ...]
  key: str


def open_builder(name: str, path: str) -> tfds.core.DatasetBuilder:
  """Returns the TFDS builder of the dataset in folder `path`.

  Args:
    name: of the task, for messages.
    path: local, or gs://...

  Raises:
    ValueError: where there is no such dataset, or one of another form; or a
      bucket that cannot be read.
  """
  field = f'data.tasks[{name}].path'
  accepted = 'accepted: the folder of a TFDS dataset in ArrayRecord form'
  if not storage.is_bucket(path) and not os.path.isdir(path):
    raise ValueError(f'{field} is {path!r}, which is no folder; {accepted}')
  if storage.read(f'{path.rstrip("/")}/dataset_info.json', field) is None:
    raise ValueError(
      f'{field} is {path!r}, which has no dataset_info.json; {accepted}'
    )
  builder = tfds.builder_from_directory(path)
  form = builder.info.file_format
  if form is not tfds.core.FileFormat.ARRAY_RECORD:
    raise ValueError(
      f'{field} is {path!r}, in {form and form.value} form; {accepted}'
    )
  features = builder.info.features
  if 'image' not in features or not {'caption', 'captions'} & set(features):
    raise ValueError(
      f'{field} is {path!r}, with the features {sorted(features)}; accepted: '
      "'image' with 'captions' or 'caption'"
    )
  return builder


class Records:
  """The records of one split, by number.

  Reading is safe from several threads.

  Attributes:
    name: of the task.
    split: a split's name, or a part of one.
    license: of the pictures, with the attribution that it asks for, or ''.
    min_size: pictures with a shorter side are dropped.
    info_json: what the dataset says of itself.
  """

  def __init__(
    self,
    name: str,
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    min_size: int = 1,
  ):
    """Opens a split.

    Args:
      name: of the task, for messages.
      builder: from `open_builder`.
      split: a split's name, or a part of one such as 'train[:90%]'.
      min_size: pictures with a shorter side are dropped.

    Raises:
      ValueError: where there is no such split, or it is empty.
    """
    try:
      size = builder.info.splits[split].num_examples
    except (KeyError, ValueError):
      raise ValueError(
        f'data.tasks[{name}].split is {split!r}; accepted: one of '
        f'{sorted(builder.info.splits)}, or a part of one'
      ) from None
    if not size:
      raise ValueError(
        f'data.tasks[{name}] has no examples in split {split!r} of '
        f'{str(builder.data_dir)!r}; accepted: at least one'
      )
    self.name = name
    self.split = split
    self.license = builder.info.as_proto.redistribution_info.license
    self.min_size = min_size
    info = builder.data_path / 'dataset_info.json'
    self.info_json = info.read_bytes()
    self._path = os.fspath(builder.data_path)
    self._source = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    features = builder.info.features
    self._captions = 'captions' if 'captions' in features else 'caption'

  def __len__(self) -> int:
    return len(self._source)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of the split's contents, as far as a few records tell them.

    The same wherever the dataset lies; another for other pictures or captions.
    """

    def of(index):
      try:
        return hashlib.sha256(self._bytes(index)).digest()
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
    """
    return _good_captions(self._features(index)[self._captions])

  def captions_of(self, indices: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Returns the usable captions of records, in their order; () for none."""

    def of(index):
      try:
        return self.captions(index)
      except BadRecordError:
        return ()

    return self._each(of, indices)

  def _each(self, of, indices):
    """of(index) of each, in order: of a bucket many at once, of a disk one."""
    threads = _READS if storage.is_bucket(self._path) else 1
    return ahead.in_order(of, indices, threads)

  def key(self, index: int) -> str:
    """Returns the name of a record, or '#number' where it has none."""
    try:
      return self._key(index, self._features(index))
    except BadRecordError:
      return f'#{index}'

  def read(self, index: int) -> Record:
    """Returns a record, decoded.

    Raises:
      BadRecordError: where it is damaged.
      DroppedRecordError: where its picture is too small, by its header: it is
        not decoded, since most of a set may be.
      UnreachableError: where storage does not give it, minutes long.
    """
    features = self._features(index)
    captions = _good_captions(features[self._captions])
    encoded = features['image'].bytes_list.value
    try:
      image = pictures.decode(
        encoded[0] if encoded else b'', min_side=self.min_size
      )
    except pictures.TooSmallError:
      raise DroppedRecordError(
        f'shorter side under {self.min_size} pixels'
      ) from None
    except pictures.TooLargeError:
      raise BadRecordError('picture too large') from None
    except pictures.DamagedError as error:
      raise BadRecordError('undecodable picture') from error
    return Record(image, captions, self._key(index, features))

  def _features(self, index):
    try:
      example = tf.train.Example.FromString(self._bytes(index))
    except message.DecodeError as error:
      raise BadRecordError('unreadable record') from error
    return example.features.feature

  def _bytes(self, index):
    for wait in (*storage.WAITS, None):
      try:
        return self._source[index]
      except (RuntimeError, OSError) as error:
        if _CORRUPT in str(error):
          raise BadRecordError('unreadable record') from error
        # Nothing is wrong with the record: skipped, it would change what is
        # trained on, by a moment's weather in a network.
        if wait is None:
          raise UnreachableError(
            f'data.tasks[{self.name}]: record {index} of {self.split!r} '
            f'cannot be read: {str(error).splitlines()[0]}'
          ) from error
        logging.warning(
          'data.tasks[%s]: record %d of %r was not read, tried again in %d s '
          '(%s)',
          *(self.name, index, self.split, wait, str(error).splitlines()[0]),
        )
        time.sleep(wait)

  def _key(self, index, features):
    value = features['key'].bytes_list.value if 'key' in features else ()
    return value[0].decode(errors='replace') if value else f'#{index}'


def _good_captions(feature):
  """Returns the texts of a feature that can be used, stripped.

  Raises:
    BadRecordError: where there are none; the reason is the last one's.
  """
  reason = 'empty caption'
  good = []
  for raw in feature.bytes_list.value:
    try:
      caption = raw.decode().strip()
    except UnicodeDecodeError:
      reason = 'caption is not UTF-8'
      continue
    if not caption:
      reason = 'empty caption'
    elif len(caption) > pictures.MAX_CAPTION:
      reason = 'caption too long'
    else:
      good.append(caption)
  if not good:
    raise BadRecordError(reason)
  return tuple(good)
