"""Records that a run leaves out: told, counted on, and listed."""

import json

import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import advance
from imagen_jax.train import loop

pytestmark = pytest.mark.usefixtures('same_programs')


def config(tiny, *assignments):
  return config_lib.override(config_lib.load(tiny), assignments)


@pytest.fixture
def bad_records(monkeypatch):
  """Has every loader say that it found three bad ones, and dropped three."""
  some = {
    'seen': 9,
    'bad': {'truncated': 2, 'empty': 1},
    'dropped': {'too small': 3},
  }
  counts = {'some': some}
  tally = loop.loader_lib.tally_lib.Tally
  monkeypatch.setattr(tally, 'counts', lambda self: counts)
  monkeypatch.setattr(tally, 'table', lambda self: '  some: truncated')
  listed = [{'task': 'some', 'key': 'k', 'reason': 'truncated'}]
  monkeypatch.setattr(tally, 'listed', lambda self: listed)


def test_what_was_left_out_is_told_and_counted_on_where_a_run_resumes(
  tiny, bad_records, capfd, tmp_path
):
  def last_line():
    text = (tmp_path / 'metrics.jsonl').read_text()
    return json.loads(text.splitlines()[-1])

  loop.train(config(tiny, 'train.num_steps=2'), str(tmp_path))
  line = last_line()
  assert (line['records_read'], line['bad_records']) == (9, 3)
  assert (line['dropped_records'], line['dropped_share']) == (3, 1 / 3)
  of_tasks = {
    name: line[name] for name in line if 'records' in name and '/' in name
  }
  assert of_tasks == {
    'records_read/some': 9,
    'bad_records/some': 3,
    'dropped_records/some': 3,
    'records_read/same': 0,
    'bad_records/same': 0,
    'dropped_records/same': 0,
  }
  said = capfd.readouterr().err
  assert (
    'records that were left out, on all hosts:\n'
    '  some: 3 bad and 3 dropped of 9 records read\n'
  ) in said
  assert 'bad ones of the first host:\n  some: truncated' in said
  (line,) = (tmp_path / 'skipped' / '00000.jsonl').read_text().splitlines()
  assert json.loads(line)['key'] == 'k'
  longer = config(tiny, 'train.num_steps=4')
  loop.train(longer, str(tmp_path), allow_config_change=True)
  line = last_line()
  assert (line['records_read'], line['bad_records']) == (18, 6)
  said = '  some: 6 bad and 6 dropped of 18 records read\n'
  assert said in capfd.readouterr().err


def test_bad_records_are_listed_whatever_ends_the_run(
  tiny, monkeypatch, tmp_path
):
  def stop(rows):
    raise ValueError('too many')

  listed = [{'task': 'some', 'key': 'k', 'reason': 'truncated'}]
  tally = loop.loader_lib.tally_lib.Tally
  monkeypatch.setattr(tally, 'listed', lambda self: listed)
  monkeypatch.setattr(advance, '_to_batch', stop)
  with pytest.raises(ValueError, match='too many'):
    loop.train(config(tiny), str(tmp_path))
  (line,) = (tmp_path / 'skipped' / '00000.jsonl').read_text().splitlines()
  assert json.loads(line) == listed[0]
