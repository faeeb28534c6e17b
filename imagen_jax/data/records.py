"""Random access to the text-image records of a TFDS dataset.

A dataset is a folder that TFDS wrote in ArrayRecord form, with the features
`image` (an encoded picture), `captions` (several texts) or `caption` (one),
and, if it has one, `key` (a name that a person can look up).

A record that cannot be used raises `BadRecordError` with one of a few reasons,
so that they can be counted.
"""

import dataclasses
import io
import os
import struct

from google.protobuf import message
import numpy as np
from PIL import Image
from PIL import ImageOps
import tensorflow as tf
import tensorflow_datasets as tfds

from imagen_jax import storage

HELDOUT = 'heldout'

# A picture of more pixels, by its header, is not decoded: a few kilobytes can
# claim gigabytes.
MAX_PIXELS = 100_000_000

# Longer captions are pages, not captions, and no encoder reads them to the
# end.
MAX_CAPTION = 2000

_FORMATS = ('PNG', 'JPEG', 'WEBP', 'GIF', 'BMP')

# What Pillow's parsers raise on damaged bytes: found by damaging pictures.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error)


class BadRecordError(Exception):
  """A record that cannot be used; its text is the reason, one of a few."""


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
    min_size: pictures with a shorter side are bad.
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
      min_size: pictures with a shorter side are bad.

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
    self._source = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    features = builder.info.features
    self._captions = 'captions' if 'captions' in features else 'caption'

  def __len__(self) -> int:
    return len(self._source)

  def captions(self, index: int) -> tuple[str, ...]:
    """Returns the usable captions of a record, without decoding its picture.

    Raises:
      BadRecordError: where it has none.
    """
    return _good_captions(self._features(index)[self._captions])

  def key(self, index: int) -> str:
    """Returns the name of a record, or '#number' where it has none."""
    try:
      return self._key(index, self._features(index))
    except BadRecordError:
      return f'#{index}'

  def read(self, index: int) -> Record:
    """Returns a record, decoded.

    Raises:
      BadRecordError: where it cannot be used.
    """
    features = self._features(index)
    captions = _good_captions(features[self._captions])
    encoded = features['image'].bytes_list.value
    image = decode(encoded[0] if encoded else b'')
    if min(image.shape[:2]) < self.min_size:
      raise BadRecordError('picture too small')
    return Record(image, captions, self._key(index, features))

  def _features(self, index):
    try:
      example = tf.train.Example.FromString(self._source[index])
    except (message.DecodeError, RuntimeError, OSError) as error:
      raise BadRecordError('unreadable record') from error
    return example.features.feature

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
    elif len(caption) > MAX_CAPTION:
      reason = 'caption too long'
    else:
      good.append(caption)
  if not good:
    raise BadRecordError(reason)
  return tuple(good)


def decode(encoded: bytes) -> np.ndarray:
  """Returns an encoded picture as uint8 [H, W, 3].

  Transparency is laid on white; a camera's orientation tag is obeyed; an
  animation gives its first frame.

  Raises:
    BadRecordError: where it is not a picture, or claims too many pixels.
  """
  try:
    with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
      if image.width * image.height > MAX_PIXELS:
        raise BadRecordError('picture too large')
      image.load()
      # Asking each picture for tags would cost more than some take to decode.
      if 'exif' in image.info:
        image = ImageOps.exif_transpose(image)
      return np.asarray(_to_rgb(image))
  except (Image.DecompressionBombError, Image.DecompressionBombWarning):
    raise BadRecordError('picture too large') from None
  except _DAMAGE as error:
    raise BadRecordError('undecodable picture') from error


def _to_rgb(image):
  if image.mode == 'RGB':
    return image
  if image.mode.startswith('I'):
    # 16-bit grey: Pillow's own conversion clips where it should scale.
    grey = np.asarray(image).astype(np.int64) >> 8
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return image.convert('RGB')
