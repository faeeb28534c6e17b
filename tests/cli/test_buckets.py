"""Commands that are led to a bucket: what they read, and what they refuse."""

import os
import pathlib
import subprocess
import sys

import fake_gcs
import pytest

from imagen_jax.cli import main

NONE = 'gs://no-such-bucket/x'


@pytest.fixture
def refused(monkeypatch, capsys):
  """Runs a command that is refused; returns what it said, one line."""
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)

  def run(*argv):
    assert main.main(list(argv)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line

  return run


@pytest.mark.parametrize('there', [False, True], ids=['here', 'there'])
def test_captions_are_read_from_a_bucket(
  there, places, bucket, storage_server, tiny, tiny_encoder, tmp_path
):
  """And give the store that those of the local folder gave, byte for byte."""
  out = tmp_path / 'store'
  if there:
    flags = [*places, '--out', f'gs://{bucket}/new']
    assert main.main(['encode', *flags]) == 0
    assert main.main(['encode', '--verify', f'gs://{bucket}/new']) == 0
    storage_server.download(bucket, 'new', out)
  else:
    assert main.main(['encode', *places, '--out', str(out)]) == 0
  store = pathlib.Path(tiny).parent / 'store'
  files = [p.relative_to(out) for p in out.rglob('*') if p.is_file()]
  assert pathlib.Path('manifest.json') in files
  for file in files:
    if file.suffix in ('.array_record', '.npy'):
      assert (out / file).read_bytes() == (store / file).read_bytes()


def test_a_bucket_that_is_not_there(
  places, bucket, tiny, tiny_encoder, exports, refused
):
  workdir = ['--workdir', f'gs://{bucket}/run']
  missing = 'The specified bucket does not exist'
  assert f'--workdir {NONE} cannot be written: NOT_FOUND: {missing}' in refused(
    'train', *places, '--workdir', NONE
  )
  assert f"text.store is '{NONE}', which has no manifest.json" in refused(
    'train', *places, *workdir, '--set', f'text.store={NONE}'
  )
  for command in (['train', *workdir], ['encode', '--out', 'out']):
    assert f"data.tasks[some].path is '{NONE}', which has no dataset_" in (
      refused(*command, *places, '--set', f'data.tasks.some.path={NONE}')
    )
  assert f'--workdir {NONE} cannot be used: there is no bucket no-such' in (
    refused('export', '--workdir', NONE, '--out', f'gs://{bucket}/out')
  )
  assert f'--out {NONE} cannot be written: NOT_FOUND' in refused(
    'export', *workdir, '--out', NONE
  )
  sample = ['sample', '--prompt', 'x', '--weights']
  assert f'--weights {NONE} has no manifest.json' in refused(
    *sample, NONE, '--out', f'gs://{bucket}/out'
  )
  assert f'--out {NONE} cannot be written: NOT_FOUND' in refused(
    *sample, exports['base'], '--out', NONE
  )


def test_a_workdir_that_holds_nothing(bucket, refused):
  workdir = ['--workdir', f'gs://{bucket}/run']
  assert 'has no checkpoint; accepted: a workdir that has one' in refused(
    'export', *workdir, '--out', f'gs://{bucket}/out'
  )


@pytest.mark.parametrize(
  'right, argv, words',
  [
    ('write', ['train'], '--workdir gs://{}/run cannot be written: PERMISSION'),
    ('delete', ['train'], '--workdir gs://{}/run cannot be written: PERMISSIO'),
    ('bucket', ['train'], '--workdir gs://{}/run cannot be used: '),
    ('read', ['train'], 'text.store gs://{}/text/manifest.json cannot be read'),
    ('read', ['encode'], 'data.tasks[some].path gs://{}/pairs/dataset_info.js'),
    ('write', ['export'], '--out gs://{}/out cannot be written: PERMISSION_D'),
    ('bucket', ['export'], '--workdir gs://{}/run cannot be used: '),
    ('read', ['sample'], '--weights gs://{}/exp/manifest.json cannot be read'),
  ],
)
def test_no_permission(
  right, argv, words, places, bucket, storage_server, refused
):
  flags = {
    'train': [*places, '--workdir', f'gs://{bucket}/run'],
    'encode': [*places, '--out', 'out'],
    'export': [
      *('--workdir', f'gs://{bucket}/run'),
      *('--out', f'gs://{bucket}/out'),
    ],
    'sample': [
      *('--weights', f'gs://{bucket}/exp', '--prompt', 'x'),
      *('--out', f'gs://{bucket}/out'),
    ],
  }
  storage_server.denied.add((right, bucket))
  said = refused(*argv, *flags[argv[0]])
  assert said.startswith(f'imagen-jax: {words.format(bucket)}')
  assert f'no permission to {right} {bucket}' in said
  if right != 'delete':
    assert not storage_server.names(bucket, 'run')


@pytest.mark.slow
@pytest.mark.parametrize(
  'argv, words',
  [
    (['train', '--workdir', 'gs://bucket/run'], '--workdir gs://bucket/run'),
    (['train', '--workdir', '{tmp}'], 'text.store gs://bucket/text/manifest'),
    (['encode', '--out', '{tmp}'], 'data.tasks[some].path gs://bucket/pairs'),
    (
      ['export', '--workdir', 'gs://bucket/run', '--out', '{tmp}/out'],
      '--workdir gs://bucket/run cannot be used: ',
    ),
    (
      ['sample', '--weights', 'gs://bucket/e', '--out', 'o', '--prompt', 'x'],
      '--weights gs://bucket/e/manifest.json cannot be read: ',
    ),
  ],
)
def test_without_a_network_it_is_told(argv, words, tiny, tmp_path):
  argv = [word.format(tmp=tmp_path) for word in argv]
  if argv[0] in ('train', 'encode'):
    argv += ['--config', tiny, '--set', 'text.store=gs://bucket/text']
    for task in ('some', 'same'):
      argv += ['--set', f'data.tasks.{task}.path=gs://bucket/pairs']
  # A port that nobody listens on.
  gone = fake_gcs.environment('http://127.0.0.1:9')
  done = subprocess.run(
    [sys.executable, '-m', 'imagen_jax', *argv],
    env={**os.environ, **gone},
    capture_output=True,
    text=True,
    # The libraries' own patience is a quarter of an hour; most of ours is for
    # the imports, on a busy machine (tests/test_storage.py has it by itself).
    timeout=300,
  )
  assert done.returncode == 2, done.stderr
  assert f'\nimagen-jax: {words}' in '\n' + done.stderr
  assert 'Traceback' not in done.stderr
