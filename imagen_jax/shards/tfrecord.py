"""TFRecord shards: a length, its checksum, the record, its checksum."""

import array
import struct

import google_crc32c

from imagen_jax.shards import files
from imagen_jax.shards import scan as scan_lib

_HEAD, _FOOT = 12, 4


class RecordError(Exception):
  """Bytes that are no record."""


def scan(file: files.File) -> scan_lib.Scan:
  """Returns where the records of a shard begin, in bytes.

  A broken length hides all that comes behind it: there the shard ends.
  """
  stream = files.Stream(file)
  starts = array.array('Q')
  place, damage = 0, ''
  while place < file.size:
    head = stream.read(place, _HEAD)
    try:
      after = place + _HEAD + _length(head) + _FOOT
    except RecordError as error:
      damage = f'{error} at byte {place}'
      break
    if after > file.size:
      damage = f'it is cut at byte {place}'
      break
    starts.append(place)
    place = after
  return scan_lib.of_starts(starts, place, damage)


def content(record: bytes) -> bytes:
  """Returns what a record holds.

  Args:
    record: the bytes of its span.

  Raises:
    RecordError: where they are not those that were written.
  """
  if len(record) != _HEAD + _length(record[:_HEAD]) + _FOOT:
    raise RecordError('it is cut')
  data = record[_HEAD:-_FOOT]
  _check(data, record[-_FOOT:])
  return data


def _length(head):
  if len(head) < _HEAD:
    raise RecordError('it is cut')
  _check(head[:8], head[8:])
  return struct.unpack('<Q', head[:8])[0]


def _check(data, written):
  value = google_crc32c.value(data)
  # Masked, since a checksum of what holds checksums says little.
  masked = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
  if struct.pack('<I', masked) != written:
    raise RecordError('it has a wrong checksum (compressed ones are not read)')
