"""WebDataset's tar shards: neighbours of one name are a record.

'cats/0001.jpg', 'cats/0001.txt' and 'cats/0001.json' are the fields 'jpg',
'txt' and 'json' of record 'cats/0001'. Nothing is ever extracted: a name is a
name, and where it would lead does not matter.
"""

import array
import dataclasses
import re

from imagen_jax.shards import files
from imagen_jax.shards import scan as scan_lib

BLOCK = 512

# Bytes of an extended header, of which a name is at most a few thousand.
_MAX_EXTENDED = 2**20

_FILES = (b'0', b'\0', b'7')
_EXTENDED = (b'x', b'L')  # Of the member that follows.
_GLOBAL = b'g'
_EMPTY = (b'1', b'2', b'3', b'4', b'5', b'6')  # Links, devices, folders.
_ATTRIBUTE = re.compile(rb'(\d{1,9}) ([^=]+)=')
_ZEROS = bytes(BLOCK)


class HeaderError(Exception):
  """A block that is no header of a tar member."""


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a tar.

  Attributes:
    name: with its folders.
    first: where its first header begins.
    start: where its contents do.
    stop: where they end.
    after: where the next header begins.
    kind: the type flag.
  """

  name: str
  first: int
  start: int
  stop: int
  after: int
  kind: bytes

  @property
  def key(self) -> str:
    """The record that it is of: the name up to the first dot of its file."""
    folder, slash, file = self.name.rpartition('/')
    return folder + slash + file.partition('.')[0]

  @property
  def field(self) -> str:
    """Which field it is: the rest, in small letters; '' where it is none."""
    if self.kind not in _FILES:
      return ''
    return self.name.rpartition('/')[2].partition('.')[2].lower()


def members(read, start: int, size: int):
  """Yields the members from a header on, up to the mark of the end.

  Args:
    read: function of a place and a length that returns those bytes, fewer at
      the end of the file.
    start: where the first header lies.
    size: where the file ends.

  Raises:
    HeaderError: where there should be a header and is none, or a file ends
      within a member or without the mark.
  """
  place = start
  while True:
    if size < place + BLOCK:
      raise HeaderError('it is cut')
    member = _member(read, place, size)
    if member is None:
      return
    yield member
    place = member.after


def scan(file: files.File) -> scan_lib.Scan:
  """Returns where the records of a shard begin, in bytes.

  A record spans from its first header to the first one of the next. Behind
  what is no header, the next that is one is looked for. A record that lost a
  member at a cut is kept: whoever reads it sees what it lacks.
  """
  stream = files.Stream(file)
  starts = array.array('Q')
  place, end, damage = 0, 0, ''
  while place is not None:
    # Who comes behind damage begins a record of its own.
    key, seen = None, set()
    try:
      for member in members(stream.read, place, file.size):
        end = member.after
        if not member.field:
          continue
        # One name twice is two records, as two names are.
        if member.key != key or member.field in seen:
          starts.append(member.first)
          key, seen = member.key, set()
        seen.add(member.field)
      break
    except HeaderError as error:
      damage = damage or f'{error} at byte {end}'
      end = max(end, place)
      place = _next_header(stream, end + BLOCK, file.size)
      end = end if place is None else place
  return scan_lib.of_starts(starts, end, damage)


def fields(record: bytes) -> dict[str, bytes]:
  """Returns the fields of a record, by name; '__key__' is its key.

  Args:
    record: the bytes of its span.

  Raises:
    HeaderError: where there is no member in it.
  """

  def read(start, length):
    return record[start : start + length]

  found = {}
  try:
    for member in members(read, 0, len(record)):
      if member.field and member.field not in found:
        found.setdefault('__key__', member.key.encode())
        found[member.field] = record[member.start : member.stop]
  except HeaderError:
    # The span ends where the next record begins, with no mark of an end.
    if not found:
      raise
  return found


def _member(read, place, size):
  """Returns the member whose headers begin at `place`; None at the mark."""
  first, name, length = place, None, None
  while True:
    header = read(place, BLOCK)
    if len(header) < BLOCK:
      raise HeaderError('it is cut')
    if header == _ZEROS:
      return None
    written = _name(header)
    kind, stop = _kind(header), place + BLOCK + _number(header[124:136])
    after = place + BLOCK + -(-(stop - place - BLOCK) // BLOCK) * BLOCK
    if kind not in (*_EXTENDED, _GLOBAL):
      break
    if stop - place > _MAX_EXTENDED:
      raise HeaderError('it has no header')
    if stop > size:
      raise HeaderError('it is cut')
    text = read(place + BLOCK, stop - place - BLOCK)
    if kind == b'L':
      name = text.rstrip(b'\0').decode(errors='replace')
    elif kind == b'x':
      attributes = _attributes(text)
      name = attributes.get('path', name)
      length = attributes.get('size', length)
    place = after
  if length is not None:
    if not re.fullmatch('[0-9]{1,18}', length):
      raise HeaderError('it has no header')
    stop = place + BLOCK + int(length)
    after = place + BLOCK + -(-int(length) // BLOCK) * BLOCK
  if kind in _EMPTY:  # Whatever the size says.
    stop = after = place + BLOCK
  if stop > size:
    raise HeaderError('it is cut')
  return Member(name or written, first, place + BLOCK, stop, after, kind)


def _kind(header):
  return header[156:157]


def _name(header):
  """Returns the name in a header, having checked its sum."""
  total = sum(header) - sum(header[148:156]) + 8 * 0x20
  if _number(header[148:156]) != total:
    raise HeaderError('it has no header')
  name = header[:100].split(b'\0')[0]
  if header[257:263] == b'ustar\0' and header[345]:
    name = header[345:500].split(b'\0')[0] + b'/' + name
  return name.decode(errors='replace')


def _number(digits):
  if digits[0] == 0x80:  # GNU's form of large numbers.
    return int.from_bytes(digits[1:], 'big')
  text = digits.split(b'\0')[0].strip(b' ')
  if not re.fullmatch(b'[0-7]*', text):
    raise HeaderError('it has no header')
  return int(text or b'0', 8)


def _attributes(text):
  """Returns the attributes of an extended header: 'LENGTH NAME=VALUE' lines."""
  found, place = {}, 0
  while match := _ATTRIBUTE.match(text, place):
    stop = place + int(match[1])
    if not match.end() <= stop <= len(text):
      break
    value = text[match.end() : stop - 1]
    found[match[2].decode(errors='replace')] = value.decode(errors='replace')
    place = stop
  return found


def _next_header(stream, place, size):
  """Returns where the next header lies, block by block; None without one."""
  while place + BLOCK <= size:
    block = stream.read(place, BLOCK)
    try:
      if len(block) == BLOCK and block != _ZEROS and _name(block):
        return place
    except HeaderError:
      pass
    place += BLOCK
  return None
