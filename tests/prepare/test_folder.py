"""The folder of a build."""

import json
import os
import subprocess
import sys

import pytest

from imagen_jax.prepare import folder

WANTED = {'sizes': [64], 'format': 1}


def test_an_empty_folder_is_begun_and_gone_on_with(tmp_path):
  out = str(tmp_path / 'out')
  assert folder.look(out) == (None, None)
  assert folder.start(out, WANTED) is None
  assert folder.start(out, WANTED) is None
  assert folder.look(out) == (WANTED, None)


def test_a_build_that_is_done_is_found(tmp_path):
  report = {'parameters': WANTED, 'tasks': {}}
  (tmp_path / 'report.json').write_text(json.dumps(report))
  assert folder.start(str(tmp_path), WANTED) == report


@pytest.mark.parametrize('done', [False, True])
def test_other_options_are_refused(tmp_path, done):
  folder.start(str(tmp_path), WANTED)
  if done:
    report = {'parameters': WANTED, 'tasks': {}}
    (tmp_path / 'report.json').write_text(json.dumps(report))
  with pytest.raises(
    ValueError,
    match=r'another build \(sizes \[64\] there, \[64, 256\] asked for\); acc',
  ):
    folder.start(str(tmp_path), {**WANTED, 'sizes': [64, 256]})


@pytest.mark.parametrize(
  'name, text', [('a', ''), ('report.json', '[]'), ('report.json', '{')]
)
def test_what_is_no_build_is_refused(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=rf'no build of ours \({name}\); accep'):
    folder.look(str(tmp_path))


def test_two_at_once_are_refused(tmp_path):
  code = (
    'import sys; from imagen_jax.prepare import folder\n'
    'with folder.locked(sys.argv[1]): pass'
  )
  command = [sys.executable, '-c', code, str(tmp_path)]
  with folder.locked(str(tmp_path)):
    refused = subprocess.run(command, capture_output=True, text=True)
  assert 'is being built by another process; accepted: one' in refused.stderr
  subprocess.run(command, check=True)


def test_halves_of_files_are_cleared_and_whole_ones_are_not(tmp_path):
  out = str(tmp_path)
  folder.clear(out, ['a'])
  folder.write(out, folder.FACTS, 'whole', b'x')
  halves = [
    tmp_path / 'report.json.tmp-1234',
    tmp_path / 'a/kept.png.tmp-5',
    tmp_path / '.build/scratch/tmpabc',
  ]
  for half in halves:
    half.write_bytes(b'')
  folder.clear(out, ['a'])
  assert not any(map(os.path.exists, halves))
  assert folder.read(out, folder.FACTS, 'whole') == b'x'
  assert folder.is_done(out, folder.FACTS, 'whole')
  assert not folder.is_done(out, folder.FACTS, 'half')


def test_what_fails_while_it_is_written_is_not_there(tmp_path):
  out = str(tmp_path)
  folder.clear(out, [])
  address = str(tmp_path / 'file')
  with pytest.raises(KeyError), folder.writing(out, address) as local:
    with open(local, 'wb') as file:
      file.write(b'half')
    raise KeyError
  assert not os.path.exists(address)
  assert not os.listdir(tmp_path / '.build/scratch')


def test_buckets_that_arrayrecord_does_not_read_are_refused():
  with pytest.raises(ValueError, match="--out is 's3://b/a'; accepted: a fold"):
    folder.look('s3://b/a')
