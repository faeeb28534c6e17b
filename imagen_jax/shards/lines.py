"""Captions files: JSONL, or CSV with a line of names in front."""

import array
import csv
import dataclasses
import io
import json

from imagen_jax.shards import files
from imagen_jax.shards import scan as scan_lib

# Looked for in a folder, in this order.
NAMES = ('captions.jsonl', 'captions.csv', 'metadata.jsonl', 'metadata.csv')

# Bytes of a row: one is held in memory.
MAX_ROW = 2**24

_CHUNK = 2**20


class RowError(Exception):
  """A row that cannot be read."""


def scan(file: files.File) -> scan_lib.Scan:
  """Returns where the rows of a captions file begin, in bytes.

  Empty lines of JSONL are rows too, and bad when they are read. In a CSV a
  line break within quotes ends no row, and the first row, of names, is none.
  """
  is_csv = file.path.endswith('.csv')
  stream = files.Stream(file)
  starts = array.array('Q', [0])
  quotes = _Quotes()
  for place in range(0, file.size, _CHUNK):
    chunk = stream.read(place, min(_CHUNK, file.size - place))
    if is_csv:
      _csv_ends(chunk, place, quotes, starts)
      continue
    end = chunk.find(b'\n')
    while end >= 0:
      starts.append(place + end + 1)
      end = chunk.find(b'\n', end + 1)
  if starts[-1] >= file.size:  # The last line break ends a row, begins none.
    starts.pop()
  if is_csv and starts:
    starts.pop(0)
  damage = 'it ends within quotes' if quotes.inside else ''
  return scan_lib.of_starts(starts, file.size, damage)


@dataclasses.dataclass
class _Quotes:
  """Where the reading of a CSV stands.

  Attributes:
    inside: a quoted field.
    closed: place of the quote that ended one last.
    before: the byte in front.
  """

  inside: bool = False
  closed: int = -2
  before: bytes = b'\n'

  def meet(self, place):
    """A quote: one within a field that has none around it is a letter."""
    if self.inside:
      self.inside, self.closed = False, place
    elif (
      self.before in (b',', b'\n', b'\r')
      or self.closed == place - 1  # Two of them in quotes stand for one.
      or (self.before, place) == (b'\xbf', 3)  # Behind a byte order mark.
    ):
      self.inside = True
    self.before = b'"'


def _csv_ends(chunk, place, quotes, starts):
  """Adds to `starts` what follows each row's end."""
  for number, part in enumerate(chunk.split(b'"')):
    if number:
      quotes.meet(place)
      place += 1
    if not quotes.inside:
      end = part.find(b'\n')
      while end >= 0:
        starts.append(place + end + 1)
        end = part.find(b'\n', end + 1)
    place += len(part)
    quotes.before = part[-1:] or quotes.before


def columns(head: bytes) -> list[str]:
  """Returns the names of a CSV's columns.

  Args:
    head: its first row.

  Raises:
    RowError: where it is none.
  """
  return [name.strip() for name in _csv_row(head.removeprefix(b'\xef\xbb\xbf'))]


def row(line: bytes, names: list[str] | None) -> dict:
  """Returns a row as {name: value}.

  Args:
    line: its bytes.
    names: of the columns of a CSV; None is a JSON object.

  Raises:
    RowError: where it is none.
  """
  if names is not None:
    values = _csv_row(line)
    if len(values) != len(names):
      raise RowError('CSV row of another length')
    return dict(zip(names, values))
  try:
    found = json.loads(line.removeprefix(b'\xef\xbb\xbf'))
  except (ValueError, RecursionError):  # Of JSON or of UTF-8.
    raise RowError('bad JSON') from None
  if not isinstance(found, dict):
    raise RowError('bad JSON')
  return found


def _csv_row(line):
  try:
    text = line.decode()
    rows = list(csv.reader(io.StringIO(text, newline=''), strict=True))
  except (UnicodeDecodeError, csv.Error):
    raise RowError('bad CSV row') from None
  if len(rows) != 1:
    raise RowError('bad CSV row')
  return rows[0]
