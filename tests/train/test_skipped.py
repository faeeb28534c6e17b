"""The files of bad records in a workdir."""

import json
import resource

from imagen_jax.data import tally as tally_lib
from imagen_jax.train import skipped as skipped_lib


def entry(key, task='a', reason='empty caption'):
  return {'task': task, 'key': key, 'reason': reason}


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_hosts_file_goes_on_over_resumes(tmp_path):
  skipped = skipped_lib.Skipped(str(tmp_path), 3)
  path = tmp_path / 'skipped' / '00003.jsonl'
  skipped.write([])
  assert not path.exists()
  skipped.write([entry('x'), entry('x', 'b')])
  skipped.write([entry('x'), entry('x', 'b'), entry('\udcff')])
  assert lines(path) == [entry('x'), entry('x', 'b'), entry('\udcff')]
  # Killed amid a line, and resumed: records that come again are there once.
  path.write_text(path.read_text() + '{"task": "a", "ke')
  skipped = skipped_lib.Skipped(str(tmp_path), 3)
  skipped.write([entry('x'), entry('new')])
  assert [line['key'] for line in lines(path)] == ['x', 'x', '\udcff', 'new']
  assert list((tmp_path / 'skipped').iterdir()) == [path]


def test_a_file_is_bounded(tmp_path, monkeypatch):
  monkeypatch.setattr(tally_lib, 'MAX_LISTED', 2)
  skipped = skipped_lib.Skipped(str(tmp_path), 0)
  skipped.write([entry('x')])
  skipped.write([entry('y'), entry('z')])
  path = tmp_path / 'skipped' / '00000.jsonl'
  assert [line['key'] for line in lines(path)] == ['x', 'y']


def test_a_workdir_that_cannot_be_written_ends_nothing(tmp_path, caplog):
  skipped = skipped_lib.Skipped(str(tmp_path), 0)
  (tmp_path / 'skipped').write_text('a file')
  skipped.write([entry('x')])
  assert 'cannot be written' in caplog.text
  (tmp_path / 'skipped').unlink()
  skipped.write([entry('x')])
  assert lines(tmp_path / 'skipped' / '00000.jsonl') == [entry('x')]


def test_a_file_is_never_half(tmp_path):
  """Not where the disk is full within it, and what it had is lost with it."""
  skipped = skipped_lib.Skipped(str(tmp_path), 0)
  skipped.write([entry('x')])
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    skipped.write([entry('x'), entry('y')])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  path = tmp_path / 'skipped' / '00000.jsonl'
  assert lines(path) == [entry('x')]
  assert list((tmp_path / 'skipped').iterdir()) == [path]


def test_a_bucket_will_do(bucket, storage_server):
  skipped = skipped_lib.Skipped(f'gs://{bucket}/run', 0)
  skipped.write([entry('x')])
  assert storage_server.names(bucket) == ['run/skipped/00000.jsonl']
  skipped_lib.Skipped(f'gs://{bucket}/run', 0).write([entry('y')])
  data = storage_server.buckets[bucket]['run/skipped/00000.jsonl'].data
  assert data.count(b'\n') == 2
