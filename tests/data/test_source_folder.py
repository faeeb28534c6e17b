"""A folder of pictures with a captions file."""

import json
import os

import pytest
import shard_files
from source_records import opened
from source_records import outcome
from source_records import some

from imagen_jax.data import folder_table
from imagen_jax.shards import lines


def test_a_csv_will_do(tmp_path):
  shard_files.write_folder(tmp_path, some(5), 'csv')
  task = shard_files.task('folder', tmp_path, captions='txt')
  shard_files.index(task)
  assert [outcome(opened(task), n) for n in (0, 4)] == [
    '000000000',
    '000000004',
  ]
  named = shard_files.task('folder', tmp_path / 'captions.csv')
  shard_files.index(named)
  assert opened(named).read(3).captions == ('picture 3',)


def test_several_captions_are_lists(tmp_path):
  captions = ['one', ' two ', '', 3]
  (tmp_path / 'a.png').write_bytes(shard_files.picture(0))
  row = json.dumps({'file': 'a.png', 'captions': captions})
  (tmp_path / 'captions.jsonl').write_text(row)
  task = shard_files.task('folder', tmp_path)
  shard_files.index(task)
  assert opened(task).read(0).captions == ('one', 'two')


def test_a_file_is_looked_for_in_its_folder_alone(tmp_path):
  folder = tmp_path / 'a'
  folder.mkdir()
  (tmp_path / 'secret.png').write_bytes(shard_files.picture(0))
  (folder / 'good.png').write_bytes(shard_files.picture(0))
  (folder / 'link.png').symlink_to(tmp_path / 'secret.png')
  (folder / 'inside.png').symlink_to(folder / 'good.png')
  (folder / 'circle.png').symlink_to(folder / 'circle.png')
  os.mkfifo(folder / 'pipe.png')
  files = {
    'good.png': 'good.png',
    './good.png': './good.png',
    'inside.png': 'inside.png',
    'link.png': 'file outside the folder',
    '../secret.png': 'file outside the folder',
    str(tmp_path / 'secret.png'): 'file outside the folder',
    'a\0b': 'file outside the folder',
    '.': 'file outside the folder',
    'absent.png': 'missing file',
    'pipe.png': 'missing file',
    'good.png/x': 'missing file',
    'circle.png': 'missing file',
    '\ud800.png': 'missing file',
    f'{"a" * 300}.png': 'missing file',
    'a/' * 3000: 'missing file',
    '': 'row without a file',
    3: 'row without a file',
  }
  rows = [json.dumps({'file': f, 'caption': 'c'}) + '\n' for f in files]
  (folder / 'captions.jsonl').write_text(''.join(rows))
  task = shard_files.task('folder', folder)
  shard_files.index(task)
  records = opened(task)
  found = [outcome(records, number) for number in range(len(files))]
  assert found == list(files.values())


def test_keys_are_lines_of_some_length(tmp_path):
  rows = [{'file': 'a.png', 'caption': 'c', 'key': 'x\ny' + 'z' * 10**5}]
  (tmp_path / 'a.png').write_bytes(shard_files.picture(0))
  (tmp_path / 'captions.jsonl').write_text(json.dumps(rows[0]) + '\n')
  task = shard_files.task('folder', tmp_path)
  shard_files.index(task)
  assert opened(task).key(0) == 'x?y' + 'z' * 197


def test_rows_and_files_of_a_folder_are_bounded(tmp_path, monkeypatch):
  records = [shard_files.record(0), shard_files.record(1, more='x' * 300)]
  records.append(shard_files.record(2, jpg=shard_files.picture(2, 30, 30)))
  task = shard_files.indexed('folder', tmp_path, records)
  monkeypatch.setattr(lines, 'MAX_ROW', 300)
  monkeypatch.setattr(folder_table, '_MAX_FILE', 2000)
  found = [outcome(opened(task), number) for number in range(3)]
  assert found == ['000000000', 'row too large', 'file too large']


def test_a_csv_row_of_broken_quotes_is_bad(tmp_path):
  (tmp_path / 'a.png').write_bytes(shard_files.picture(0))
  rows = b'file,caption\na.png,one\na.png,"tw"o\na.png,\xff\na.png,four\n'
  (tmp_path / 'captions.csv').write_bytes(rows)
  task = shard_files.task('folder', tmp_path)
  shard_files.index(task)
  found = [outcome(opened(task), number) for number in range(4)]
  assert found == ['a.png', 'bad CSV row', 'bad CSV row', 'a.png']


def test_a_csv_without_names_is_refused(tmp_path):
  (tmp_path / 'captions.csv').write_bytes(b'\xff\xfe\nx,y\n')
  task = shard_files.task('folder', tmp_path)
  shard_files.index(task)
  with pytest.raises(ValueError, match='has no names of columns: .*; accepted'):
    opened(task)
