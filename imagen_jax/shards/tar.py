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

# Bytes of an extended header, of which a name is at most a few thousand, and
# how many of them may stand in front of a member: a usual one has one or two.
_MAX_EXTENDED = 2**20
_MAX_CHAIN = 16

_FILES = (b'0', b'\0', b'7')
_EXTENDED = (b'x', b'L')  # Of the member that follows.
_GLOBAL = b'g'
_EMPTY = (b'1', b'2', b'3', b'4', b'5', b'6')  # Links, devices, folders.
_ATTRIBUTE = re.compile(rb'(\d{1,9}) ([^=]+)=')
_ZEROS = bytes(BLOCK)

# How compressed files begin.
_COMPRESSED = {
  b'\x1f\x8b': 'gzip',
  b'BZh': 'bzip2',
  b'\xfd7zXZ\0': 'xz',
  b'\x28\xb5\x2f\xfd': 'zstd',
}


class HeaderError(Exception):
  """A block that is no header of a tar member.

  Attributes:
    after: where to look on for one: nothing in front of it is looked at again.
  """

  def __init__(self, reason: str, after: int = 0):
    super().__init__(reason)
    self.after = after


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
      raise HeaderError('it is cut', size)
    member = _member(read, place, size)
    if member is None:
      return
    yield member
    place = member.after


def scan(file: files.File) -> scan_lib.Scan:
  """Returns where the records of a shard begin, in bytes.

  A record spans from its first header to the first one of the next. Behind
  what is no header, and behind the mark of the end, the next that is one is
  looked for. A record that lost a member at a cut is kept: whoever reads it
  sees what it lacks.
  """
  stream = files.Stream(file)
  starts = array.array('Q')
  head = stream.read(0, min(BLOCK, file.size))
  for begin, name in _COMPRESSED.items():
    if head.startswith(begin):
      damage = f'it is compressed ({name}), which is not read'
      return scan_lib.of_starts(starts, 0, damage)
  place, end, damage = 0, 0, ''
  while place is not None:
    # Who comes behind damage begins a record of its own.
    key, seen = None, set()
    ended = False
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
      after, ended = end + BLOCK, True
    except HeaderError as error:
      damage = damage or f'{error} at byte {end}'
      after = error.after
    found, blank = _next_header(stream, after, file.size)
    if ended and not blank:
      damage = damage or f'it goes on behind its end at byte {end}'
    end = end if found is None else found
    place = found
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
  for _ in range(_MAX_CHAIN + 1):
    header = read(place, BLOCK)
    if header == _ZEROS and place == first:
      return None
    # What is looked at in a chain of headers is not looked at again.
    behind = place + BLOCK
    if len(header) < BLOCK:
      raise HeaderError('it is cut', behind)
    try:
      written, size_written = _name(header), _number(header[124:136])
    except HeaderError as error:
      error.after = behind
      raise
    kind, stop = _kind(header), behind + size_written
    after = behind + -(-size_written // BLOCK) * BLOCK
    if kind not in (*_EXTENDED, _GLOBAL):
      break
    if stop - place > _MAX_EXTENDED:
      raise HeaderError('it has no header', behind)
    if stop > size:
      raise HeaderError('it is cut', behind)
    text = read(behind, stop - behind)
    if kind == b'L':
      name = text.rstrip(b'\0').decode(errors='replace')
    elif kind == b'x':
      attributes = _attributes(text)
      name = attributes.get('path', name)
      length = attributes.get('size', length)
    place = after
  else:
    raise HeaderError('it has a chain of headers', place)
  if length is not None:
    if not re.fullmatch('[0-9]{1,18}', length):
      raise HeaderError('it has no header', behind)
    stop = behind + int(length)
    after = behind + -(-int(length) // BLOCK) * BLOCK
  if kind in _EMPTY:  # Whatever the size says.
    stop = after = behind
  if stop > size:
    raise HeaderError('it is cut', behind)
  return Member(name or written, first, behind, stop, after, kind)


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
  """Looks for a header, block by block.

  Returns:
    Where the next one lies, None without one; and whether nothing but zeros
    were met.
  """
  blank = True
  while place < size:
    block = stream.read(place, min(BLOCK, size - place))
    if block.strip(b'\0'):
      blank = False
      try:
        if len(block) == BLOCK and _name(block):
          return place, blank
      except HeaderError:
        pass
    place += BLOCK
  return None, blank
