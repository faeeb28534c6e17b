"""Files that are whole or not there, in a folder and in a bucket."""

import os

import pytest

from imagen_jax import storage
from imagen_jax.text import files
from imagen_jax.text import output


@pytest.fixture(params=['folder', 'bucket'])
def place(request, tmp_path, monkeypatch):
  """Where to write; behind the bucket's address is the folder, too."""
  kvstore = storage.kvstore
  monkeypatch.setattr(
    storage,
    'kvstore',
    lambda path, *, folder: kvstore(
      path.replace('gs://bucket', str(tmp_path)), folder=folder
    ),
  )
  return 'gs://bucket' if request.param == 'bucket' else str(tmp_path)


def test_what_is_written_is_read_in_parts(place, tmp_path):
  output.write(f'{place}/a/b', b'0123456789')
  output.write(f'{place}/a/b', b'abcdefghij')
  spans = [('a/b', 2, 5), ('a/b', None, None), ('a/c', 0, 1), ('a/b', 9, 10)]
  spans = [(f'{place}/{name}', start, stop) for name, start, stop in spans]
  assert files.read_spans(spans, 'x') == [b'cde', b'abcdefghij', None, b'j']
  assert os.listdir(tmp_path / 'a') == ['b']


def test_a_staged_file_appears_when_it_is_whole(place, tmp_path):
  with output.staged(f'{place}/a') as name:
    with open(name, 'w') as file:
      file.write('whole')
    assert not (tmp_path / 'a').exists()
  assert [p.name for p in tmp_path.iterdir()] == ['a']
  with pytest.raises(KeyboardInterrupt), output.staged(f'{place}/b') as name:
    raise KeyboardInterrupt
  assert not (tmp_path / 'b').exists()


def test_two_may_write_one_file(place, tmp_path):
  """As hosts of a killed run do, beside those of the next."""
  with output.staged(f'{place}/a') as first, output.staged(f'{place}/a') as own:
    for name in (first, own):
      with open(name, 'w') as file:
        file.write('whole')
  assert (tmp_path / 'a').read_text() == 'whole'
  assert [p.name for p in tmp_path.iterdir()] == ['a']


def test_json_and_its_absence(place):
  output.write_json(f'{place}/a.json', {'n': 1})
  names = [f'{place}/{name}.json' for name in 'ab']
  assert output.read_json(names) == [{'n': 1}, None]


def test_removing(place, tmp_path):
  for name in ('a', 'spool-1/x', 'spool-2/y/z', 'spooled/b'):
    output.write(f'{place}/{name}', b'')
  for _ in range(2):  # What is gone may be removed.
    output.remove(f'{place}/a')
    output.remove_folders(place, 'spool-')
  found = [p for p in tmp_path.rglob('*') if p.is_file()]
  assert found == [tmp_path / 'spooled' / 'b']


def test_many_are_removed_from_a_bucket_side_by_side(monkeypatch):
  """All deletes are started before one is waited for, in one opened store."""
  said = []

  class Removed:
    def result(self):
      said.append('waited')

  class Store:
    def write(self, name, value):
      assert value is None
      said.append(name)
      return Removed()

  def opened(folder):
    said.append(folder)
    return Store()

  monkeypatch.setattr(output.storage, 'open_folder', opened)
  output.remove('gs://b/c/x', 'gs://b/c/y', 'gs://b/c/z')
  assert said == ['gs://b/c', 'x', 'y', 'z', 'waited', 'waited', 'waited']


def test_a_bucket_that_refuses_is_told_in_one_line():
  with pytest.raises(
    ValueError, match='^--out gs://b/a cannot be written: '
  ) as e:
    output.write('gs://b/a', b'')  # No bucket has so short a name.
  assert '\n' not in str(e.value)
  with pytest.raises(ValueError, match='^--out gs://b/a cannot be written: '):
    output.remove('gs://b/a', 'gs://b/c')
