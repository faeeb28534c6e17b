"""What a source gives: rows of named values, by number.

A row is {name: value}; a value is bytes, text, a number, None, or a list of
those. Whatever kind of files it comes from, the names say what it is used for.
"""

from collections.abc import Collection
import dataclasses
import functools

from imagen_jax import config as config_lib

# Taken where a config names none: the first that a row has. As TFDS, WebDataset
# and img2dataset call them.
_IMAGES = ('image', 'jpg', 'jpeg', 'png', 'webp', 'gif')
_FILES = ('file', 'file_name', 'filename', 'image', 'path')
_CAPTIONS = ('captions', 'txt', 'caption', 'text')
_KEYS = ('key', '__key__')


class DamagedError(Exception):
  """A row that cannot be read; its text is the reason, one of a few."""


@dataclasses.dataclass(frozen=True)
class Names:
  """Which values of a row are what: of each, the first that there is.

  Attributes:
    image: the encoded picture, or the name of its file.
    captions: one caption or several.
    key: the row's name.
  """

  image: tuple[str, ...]
  captions: tuple[str, ...]
  key: tuple[str, ...]


def names(task: config_lib.TaskConfig) -> Names:
  """Returns the names that a task's config gives, or the usual ones."""
  images, keys = _IMAGES, _KEYS
  if task.kind == 'folder':
    images, keys = _FILES, (*_KEYS, *_FILES)
  return Names(
    (task.image,) if task.image else images,
    (task.captions,) if task.captions else _CAPTIONS,
    (task.key,) if task.key else keys,
  )


def first(row: dict, wanted: Collection[str]):
  """Returns the first value of `wanted` that a row has, or None."""
  return next((row[name] for name in wanted if name in row), None)


class Table:
  """The rows of one split. Reading is safe from several threads.

  Attributes:
    names: which values are what.
    license: of the pictures, or ''.
    info: bytes that tell the dataset from another, as far as it says itself.
  """

  def __init__(self, names: Names, license: str, info: bytes):
    """Keeps its arguments."""
    self.names = names
    self.license = license
    self.info = info

  def __len__(self) -> int:
    raise NotImplementedError

  def row(self, index: int, wanted: Collection[str]) -> dict:
    """Returns a row: at least those of the values `wanted` that it has.

    Raises:
      DamagedError: where it cannot be read, and never will be.
      OSError: where storage does not give it.
    """
    raise NotImplementedError

  def raw(self, index: int) -> bytes:
    """Returns bytes that tell a row from another.

    Raises:
      DamagedError: as `row`.
      OSError: as `row`.
    """
    raise NotImplementedError

  def picture(self, row: dict) -> bytes:
    """Returns the encoded picture of a row; b'' where it has none.

    Raises:
      DamagedError: where it cannot be read.
      OSError: where storage does not give it.
    """
    return as_bytes(first(row, self.names.image))

  @functools.cached_property
  def text_names(self) -> frozenset[str]:
    """The names of all but pictures."""
    return frozenset((*self.names.captions, *self.names.key))


def as_bytes(value) -> bytes:
  """Returns a value's bytes: its own, or of the only one in a list."""
  if isinstance(value, list):
    value = value[0] if value else b''
  # As Hugging Face's datasets hold a picture in Parquet.
  if isinstance(value, dict):
    value = value.get('bytes')
  if isinstance(value, str):
    return value.encode(errors='replace')
  return value if isinstance(value, bytes) else b''


def as_texts(value) -> list:
  """Returns a value as a list of texts, whatever else is in it left there."""
  if value is None:
    return []
  return value if isinstance(value, list) else [value]
