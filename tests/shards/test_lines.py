"""Captions files: rows found by bytes, read by Python's own parsers."""

import csv
import io

import pytest

from imagen_jax.shards import files
from imagen_jax.shards import lines


def rows(path):
  """The rows of a captions file, from their spans; and its damage."""
  found, data = lines.scan(files.stat(str(path), 'path')), path.read_bytes()
  names = None
  if path.suffix == '.csv':
    names = lines.columns(data[: found.entries[0]])
  spans = list(zip(found.entries, found.entries[1:]))
  assert len(spans) == found.records
  return [lines.row(data[a:b], names) for a, b in spans], found.damage


CSV = 'file,caption\r\na.png,"one, ""two""\nthree"\r\nb.png,\r\nc.png,"é\n"\n'


@pytest.mark.parametrize('chunk', [1, 2, 3, 5, 7, 2**20])
def test_a_line_break_in_quotes_ends_no_row(tmp_path, monkeypatch, chunk):
  monkeypatch.setattr(lines, '_CHUNK', chunk)
  (tmp_path / 'x.csv').write_bytes(CSV.encode())
  found, damage = rows(tmp_path / 'x.csv')
  assert damage == ''
  assert found == [
    {'file': 'a.png', 'caption': 'one, "two"\nthree'},
    {'file': 'b.png', 'caption': ''},
    {'file': 'c.png', 'caption': 'é\n'},
  ]


@pytest.mark.parametrize('mark', ['', '\ufeff'])
@pytest.mark.parametrize('chunk', [1, 2, 3, 5, 2**20])
def test_a_quote_within_a_field_is_a_letter(tmp_path, monkeypatch, chunk, mark):
  """As Python's csv has it: no row is lost to an inch."""
  monkeypatch.setattr(lines, '_CHUNK', chunk)
  text = (
    mark + '"file",caption\na,6" pipe\nb,6"" pipe\nc,x\n"d","a ""b"""\ne,f\n'
  )
  (tmp_path / 'x.csv').write_text(text)
  found, damage = rows(tmp_path / 'x.csv')
  wanted = list(csv.DictReader(io.StringIO(text.removeprefix(mark))))
  assert (found, damage) == (wanted, '')
  assert len(found) == 5


@pytest.mark.parametrize('end', ['', '\n'])
@pytest.mark.parametrize('chunk', [1, 4, 2**20])
def test_a_line_is_a_row(tmp_path, monkeypatch, chunk, end):
  monkeypatch.setattr(lines, '_CHUNK', chunk)
  text = '\ufeff{"a": 1}\r\n{"b": "é\\n"}' + end
  (tmp_path / 'x.jsonl').write_text(text)
  assert rows(tmp_path / 'x.jsonl') == ([{'a': 1}, {'b': 'é\n'}], '')


@pytest.mark.parametrize(
  'line', [b'', b'{', b'[1]', b'\xff', b'[' * 100_000, b'null']
)
def test_what_is_no_object_is_refused(line):
  with pytest.raises(lines.RowError, match='^bad JSON$'):
    lines.row(line, None)


@pytest.mark.parametrize(
  'line', [b'', b'a', b'a,b,c', b'"a,b', b'\xff,b', b'"a"x,b', b'a,b\nc,d']
)
def test_what_is_no_row_is_refused(line):
  with pytest.raises(lines.RowError, match='CSV row'):
    lines.row(line, ['a', 'b'])


def test_a_file_that_ends_in_quotes_is_damaged(tmp_path):
  (tmp_path / 'x.csv').write_text('file,caption\na,b\nc,"d\n')
  found = lines.scan(files.stat(str(tmp_path / 'x.csv'), 'path'))
  assert (found.records, found.damage) == (2, 'it ends within quotes')


@pytest.mark.parametrize('text', ['', 'file,caption\n'])
def test_a_file_without_rows_has_none(tmp_path, text):
  (tmp_path / 'x.csv').write_text(text)
  assert lines.scan(files.stat(str(tmp_path / 'x.csv'), 'path')).records == 0
