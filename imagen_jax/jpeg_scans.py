"""How often a JPEG has its pixels gone over, told without decoding it."""

from collections.abc import Iterator
import re

# A marker of JPEG: 0 stands behind a byte of a scan that looks like one.
_MARKER = re.compile(rb'\xff([^\x00\xff])')
_SCAN, _END = 0xDA, 0xD9
# Frames that are decoded in one go, where the first scan has all components.
_SEQUENTIAL = (0xC0, 0xC1)
# Markers with nothing behind them.
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))


def in_one_pass(encoded: bytes) -> bool:
  """Returns whether a JPEG is decoded in one pass.

  By what libjpeg goes by: it is not progressive, and its first scan has as many
  components as the frame. Where another scan follows, it is refused there.

  Raises:
    IndexError: where it is cut within its header.
  """
  components = None
  for kind, place in _segments(encoded):
    if kind in _SEQUENTIAL:
      components = encoded[place + 7]
    elif kind == _SCAN:
      return encoded[place + 2] == components
  return False


def count(encoded: bytes) -> int:
  """Returns how many scans a JPEG has: what is in other segments is none."""
  return sum(kind == _SCAN for kind, _ in _segments(encoded))


def _segments(encoded) -> Iterator[tuple[int, int]]:
  """Yields each segment's marker, and where its length stands."""
  place = 2
  while found := _MARKER.search(encoded, place):
    kind, place = found[1][0], found.end()
    if kind == _END:
      break
    if kind in _BARE:
      continue
    yield kind, place
    place += max(2, int.from_bytes(encoded[place : place + 2], 'big'))
