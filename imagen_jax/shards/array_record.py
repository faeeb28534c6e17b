"""What an ArrayRecord shard says of itself, in its footer.

Its records lie in chunks, each of one record or of a group of them, that are
compressed apart. The footer, itself a chunk, has where each begins, how large
it is once it is decompressed, and how many records it holds; the last 64 KiB
have where the footer begins. (Google's `array_record`, over Riegeli, reads the
same, and bounds nothing; its Python module does not show it.)
"""

import array
import struct

import pyarrow

from imagen_jax.shards import files

# Riegeli puts a header in front of every block, even within chunks.
_BLOCK, _BLOCK_HEADER = 2**16, 24
_CHUNK_HEADER = 40
# Bytes of a footer, decompressed: a chunk takes a dozen of them.
_MAX_FOOTER = 2**26
_SIMPLE = b'r'
_CODECS = {b'b': 'brotli', b'z': 'zstd', b's': 'snappy'}


class FooterError(Exception):
  """A footer that cannot be read."""


def chunks(file: files.File) -> tuple[array.array, array.array]:
  """Returns of each chunk of a shard its records, and its bytes when unpacked.

  Raises:
    FooterError: where the footer is damaged, too large or of another form.
    OSError: where storage does not give it.
  """
  try:
    last = _chunk(file, file.size - file.size % _BLOCK - _BLOCK)
    (footer, *_) = _fields(last[0])
    described = _chunk(file, footer)
    numbers, sizes = array.array('Q'), array.array('Q')
    for one in described[1:]:  # The first is of the whole shard.
      _, size, records = _fields(one)
      numbers.append(records)
      sizes.append(size)
  except (IndexError, ValueError, OverflowError, struct.error) as error:
    raise FooterError('it has no footer') from error
  return numbers, sizes


def _chunk(file, place):
  """Returns the records of the chunk that begins at `place`."""
  if not 0 <= place < file.size:
    raise FooterError('it has no footer')
  header = _read(file, place, _CHUNK_HEADER)
  _, size, _, kind, unpacked = struct.unpack('<QQQQQ', header)
  kind = bytes([kind % 256])  # And how many records.
  if size > file.size or unpacked > _MAX_FOOTER:
    raise FooterError('its footer is too large')
  if kind != _SIMPLE:
    raise FooterError('its footer is of another form')
  data = _read(file, place, _CHUNK_HEADER + size)[_CHUNK_HEADER:]
  length, start = _varint(data, 1)
  sizes = _unpack(data[:1], data[start : start + length])
  values = _unpack(data[:1], data[start + length :])
  records, place, start = [], 0, 0
  while place < len(sizes):
    length, place = _varint(sizes, place)
    records.append(values[start : start + length])
    start += length
  return records


def _read(file, place, length):
  """Returns `length` bytes of a chunk, without the headers of blocks."""
  blocks = length // (_BLOCK - _BLOCK_HEADER) + 2
  raw = file.read(
    place, min(file.size, place + length + blocks * _BLOCK_HEADER)
  )
  parts, left = [], length
  offset = 0
  while left and offset < len(raw):
    inside = (place + offset) % _BLOCK
    if inside < _BLOCK_HEADER:
      offset += _BLOCK_HEADER - inside
      inside = _BLOCK_HEADER
    part = raw[offset : offset + min(left, _BLOCK - inside)]
    parts.append(part)
    left -= len(part)
    offset += len(part)
  if left:
    raise FooterError('it is cut')
  return b''.join(parts)


def _unpack(form, data):
  if form == b'\0':
    return data
  if form not in _CODECS:
    raise FooterError('its footer is of another form')
  size, start = _varint(data, 0)
  if size > _MAX_FOOTER:
    raise FooterError('its footer is too large')
  codec = pyarrow.Codec(_CODECS[form])
  try:
    return codec.decompress(data[start:], size, asbytes=True)
  except (pyarrow.ArrowException, OSError) as error:
    raise FooterError('it has no footer') from error


def _varint(data, place):
  value = 0
  for shift in range(0, 70, 7):
    byte = data[place]
    place += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, place
  raise ValueError('no number')


def _fields(message):
  """Returns the numbers 1, 2 and 3 of a message; 0 where one is left out."""
  found, place = [0, 0, 0], 0
  while place < len(message):
    key, place = _varint(message, place)
    value, place = _varint(message, place)
    if key not in (8, 16, 24):
      raise ValueError('another message')
    found[key // 8 - 1] = value
  return found
