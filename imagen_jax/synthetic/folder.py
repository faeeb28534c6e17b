"""Pictures and captions from a person's own folder, each one checked.

The folder holds pictures and `captions.jsonl`, one JSON object a line:
{"file": "cats/1.jpg", "caption": "..."} or {"file": ..., "captions": [...]}.
"""

import collections
import dataclasses
import hashlib
import io
import json
import pathlib

from PIL import ImageOps

from imagen_jax import pictures

CAPTIONS_FILE = 'captions.jsonl'
KEYS_LISTED = 5  # Of each reason for skipping.

# What every reader of the set decodes alike; all else becomes PNG.
_KEPT_FORMATS = ('JPEG', 'PNG')
_KEPT_MODES = ('RGB', 'L')
_ORIENTATION = 0x0112  # EXIF tag.


class Skipped(Exception):
  """A line or picture that cannot be used; the text is the reason."""


@dataclasses.dataclass
class Tally:
  """What was left out, by reason: how many, and the first few keys."""

  counts: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  keys: dict[str, list[str]] = dataclasses.field(default_factory=dict)

  def add(self, reason: str, key: str):
    """Counts one thing left out."""
    self.counts[reason] += 1
    listed = self.keys.setdefault(reason, [])
    if len(listed) < KEYS_LISTED:
      listed.append(key)

  def to_dict(self) -> dict:
    """Returns {reason: {'count': n, 'first': [keys]}}, sorted by reason."""
    return {
      reason: {'count': self.counts[reason], 'first': self.keys[reason]}
      for reason in sorted(self.counts)
    }


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of captions.jsonl: the picture's file and its captions."""

  file: str
  captions: tuple[str, ...]


def digest(source: str | pathlib.Path) -> str:
  """Returns the SHA-256 of a folder's captions.jsonl, in hex.

  Raises:
    ValueError: where the folder or its captions.jsonl cannot be read.
  """
  with _open_captions(source) as lines:
    return hashlib.file_digest(lines, 'sha256').hexdigest()


def read_entries(source: str | pathlib.Path, tally: Tally) -> list[Entry]:
  """Returns the usable lines of a folder's captions.jsonl.

  Lines that cannot be used, and captions that cannot, go to `tally`.

  Raises:
    ValueError: where the folder or its captions.jsonl cannot be read.
  """
  entries = []
  with _open_captions(source) as lines:
    for number, line in enumerate(lines, start=1):
      try:
        if line.strip():
          entries.append(_entry(line, f'line {number}', tally))
      except Skipped as reason:
        tally.add(str(reason), f'line {number}')
  return entries


def _open_captions(source):
  source = pathlib.Path(source)
  if not source.is_dir():
    raise ValueError(
      f'source {source} is not a folder; accepted: a folder of pictures with '
      f'{CAPTIONS_FILE}'
    )
  path = source / CAPTIONS_FILE
  try:
    return path.open('rb')
  except OSError as error:
    raise ValueError(
      f'{path} cannot be read ({error.strerror}); accepted: a file with '
      '{"file": ..., "caption": ...} on each line'
    ) from error


def _entry(line, key, tally):
  try:
    record = json.loads(line)
  except ValueError:  # Of JSON or of UTF-8.
    raise Skipped('bad JSON line') from None
  if not isinstance(record, dict) or not isinstance(record.get('file'), str):
    raise Skipped('line without "file"')
  captions = record.get('captions', [record.get('caption')])
  if not isinstance(captions, list):
    raise Skipped('"captions" is not a list')
  kept = []
  for caption in captions:
    try:
      kept.append(_caption(caption))
    except Skipped as reason:
      # The picture stays if another caption is good.
      if len(captions) == 1:
        raise
      tally.add(str(reason), key)
  if not kept:
    raise Skipped('no usable caption')
  return Entry(record['file'], tuple(kept))


def _caption(caption):
  if not isinstance(caption, str):
    raise Skipped(
      'line without "caption"' if caption is None else 'caption is not text'
    )
  caption = ' '.join(caption.split())
  if not caption:
    raise Skipped('empty caption')
  if len(caption) > pictures.MAX_CAPTION:
    raise Skipped(f'caption over {pictures.MAX_CAPTION} characters')
  try:
    caption.encode()
  except UnicodeEncodeError:  # JSON may spell half of a surrogate pair.
    raise Skipped('caption is not Unicode') from None
  return caption


def read_picture(source: str | pathlib.Path, file: str) -> bytes:
  """Returns a picture's encoded bytes, having decoded it to the last pixel.

  A JPEG or PNG with 8 bits a channel and no transparency is kept as it is;
  others become RGB PNG: turned upright, transparency over white.

  Raises:
    Skipped: where it cannot be used.
  """
  path = _inside(pathlib.Path(source), file)
  try:
    encoded = path.read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    raise Skipped('missing file') from None
  except OSError:
    raise Skipped('unreadable file') from None
  try:
    return _checked(encoded)
  except pictures.TooLargeError:
    raise Skipped(f'over {pictures.MAX_PIXELS // 10**6} megapixels') from None
  except pictures.DamagedError:
    raise Skipped('corrupt picture') from None


def _inside(source, file):
  try:
    root = source.resolve()
    path = (root / file).resolve()
  except (OSError, ValueError, RuntimeError):  # Null bytes, loops of links.
    raise Skipped('bad file name') from None
  if not path.is_relative_to(root):
    raise Skipped('file outside the folder')
  return path


def _checked(encoded):
  with pictures.opened(encoded) as image:
    upright = image.getexif().get(_ORIENTATION, 1) == 1
    as_it_is = (
      image.format in _KEPT_FORMATS
      and image.mode in _KEPT_MODES
      and upright
      and 'transparency' not in image.info
    )
    return encoded if as_it_is else _to_png(ImageOps.exif_transpose(image))


def _to_png(image):
  if image.mode.startswith('I;16') or image.mode in ('I', 'F'):
    raise Skipped(f'pixels of type {image.mode}')
  out = io.BytesIO()
  pictures.over_white(image).save(out, 'PNG')
  return out.getvalue()
