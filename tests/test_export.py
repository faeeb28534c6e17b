"""Exports: the checkpoint's averages, whole or refused."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import export
from imagen_jax.text import identity
from imagen_jax.train import checkpoint


def averages(workdir, step):
  with checkpoint.Checkpointer(workdir, create=False) as checkpointer:
    names = list(checkpointer.shapes(step, 'ema_params'))
    return checkpointer.restore_some(step, 'ema_params', names)


@pytest.mark.parametrize('step', [None, 2])
@pytest.mark.parametrize('shard_bytes', [export.SHARD_BYTES, 4096])
def test_an_export_is_the_checkpoints_averages(
  workdirs, tiny, step, shard_bytes, tmp_path
):
  out = tmp_path / 'deep' / 'out'
  manifest = export.export_weights(
    workdirs['base'], str(out), step=step, shard_bytes=shard_bytes
  )
  stage = export.load_weights(str(out))
  cfg = config_lib.load(tiny)
  assert (stage.stage, stage.text) == (cfg.stage, cfg.text)
  assert stage.step == manifest['step'] == (step or 4)
  assert stage.text_identity == manifest['text_identity']
  assert stage.text_identity == identity.of(cfg.text)
  expected = averages(workdirs['base'], step or 4)
  flat = export.flatten(stage.params)
  assert flat.keys() == expected.keys()
  for name, array in expected.items():
    assert flat[name].dtype == array.dtype
    np.testing.assert_array_equal(flat[name], array)
  files = manifest['files']
  assert len(files) == (1 if shard_bytes > 10**6 else pytest.approx(14, abs=7))
  assert sum(len(entry['arrays']) for entry in files.values()) == len(flat)
  assert sorted(path.name for path in out.iterdir()) == sorted(
    [*files, 'config.json', 'manifest.json']
  )


def test_shards_hold_about_what_they_may(workdirs, tmp_path):
  manifest = export.export_weights(
    workdirs['base'], str(tmp_path / 'out'), shard_bytes=4096
  )
  for entry in manifest['files'].values():
    # A file may be larger where one array is; the rest is the header.
    assert len(entry['arrays']) == 1 or entry['bytes'] < 4096 + 4096


def test_an_export_replaces_another(workdirs, tmp_path):
  out = str(tmp_path)
  export.export_weights(workdirs['base'], out, shard_bytes=4096)
  export.export_weights(workdirs['sr'], out, step=2)
  stage = export.load_weights(out)
  assert (stage.stage.name, stage.step) == ('tiny32', 2)
  assert len(list(tmp_path.glob('*.safetensors'))) == 1


@pytest.mark.parametrize('replaces', [False, True])
def test_a_killed_export_is_refused_and_done_again(
  replaces, workdirs, tmp_path, monkeypatch
):
  out = str(tmp_path / 'out')
  if replaces:
    export.export_weights(workdirs['base'], out, step=2)
  save = export.safetensors.save
  files = []

  def die(arrays):
    files.append(arrays)
    if len(files) == 3:
      raise KeyboardInterrupt
    return save(arrays)

  monkeypatch.setattr(export.safetensors, 'save', die)
  with pytest.raises(KeyboardInterrupt):
    export.export_weights(workdirs['base'], out, shard_bytes=4096)
  with pytest.raises(ValueError, match='has no manifest.json; accepted: a fol'):
    export.load_weights(out)
  monkeypatch.undo()
  export.export_weights(workdirs['base'], out)
  assert export.load_weights(out).step == 4


@pytest.fixture
def copy(exports, tmp_path):
  return pathlib.Path(shutil.copytree(exports['base'], tmp_path / 'copy'))


def weights(folder):
  return next(folder.glob('*.safetensors'))


def flip(path):
  blob = bytearray(path.read_bytes())
  blob[len(blob) // 2] ^= 1
  path.write_bytes(blob)


def change(file, **values):
  file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
  'harm, words',
  [
    (lambda f: flip(weights(f)), r'weights-00001-of-00001.* is not what the'),
    (lambda f: flip(f / 'config.json'), 'config.json is not what the manifest'),
    (lambda f: weights(f).unlink(), 'weights-.* is missing; accepted: what'),
    (
      lambda f: (f / 'manifest.json').write_text('{"stage": '),
      'manifest.json is broken; export it again',
    ),
    (
      lambda f: (f / 'manifest.json').write_text('{"stage": "x"}'),
      'manifest.json is broken; export it again',
    ),
    (
      lambda f: change(f / 'manifest.json', text_identity='c0ffee'),
      'manifest.json is broken; export it again',
    ),
    (lambda f: shutil.rmtree(f), 'copy has no manifest.json'),
  ],
)
def test_what_is_not_whole_is_refused(copy, harm, words):
  harm(copy)
  with pytest.raises(ValueError, match=words):
    export.load_weights(str(copy))


def test_a_manifest_that_lists_less_is_refused(exports, tmp_path):
  out = tmp_path / 'out'
  shutil.copytree(exports['base'], out)
  change(out / export.MANIFEST_FILE, files={})
  with pytest.raises(ValueError, match='not hold the network .* is None, the'):
    export.load_weights(str(out))


def test_missing_checkpoints_are_refused(workdirs, tmp_path):
  out = str(tmp_path / 'out')
  with pytest.raises(
    ValueError, match='no checkpoint of step 3; accepted: 2, '
  ):
    export.export_weights(workdirs['base'], out, step=3)
  none = str(tmp_path / 'none')
  with pytest.raises(
    ValueError, match='none has no checkpoint; accepted: a wo'
  ):
    export.export_weights(none, out)
  assert not list(tmp_path.iterdir())


def test_a_folder_with_something_else_is_kept(workdirs, tmp_path):
  (tmp_path / 'thesis.txt').write_text('years')
  with pytest.raises(ValueError, match='holds something else; accepted: a new'):
    export.export_weights(workdirs['base'], str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_hashes_are_those_of_the_files(exports):
  folder = pathlib.Path(exports['base'])
  manifest = json.loads((folder / 'manifest.json').read_text())
  for name, entry in manifest['files'].items():
    path = folder / name
    assert path.stat().st_size == entry['bytes']
    with path.open('rb') as file:
      digest = export.hashlib.file_digest(file, 'sha256').hexdigest()
    assert digest == entry['sha256']


def test_neither_export_nor_sampling_starts_tensorflow(workdirs, tmp_path):
  code = """
import sys
from imagen_jax.cli import main
status = main.main(['export', '--workdir', sys.argv[1], '--out', sys.argv[2]])
assert not status
from imagen_jax import export, generate
export.load_weights(sys.argv[2])
assert not {'tensorflow', 'seqio', 'torch'} & set(sys.modules)
"""
  out = str(tmp_path / 'out')
  done = subprocess.run(
    [sys.executable, '-c', code, workdirs['base'], out],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'exported the EMA weights of tiny16 at step 4 (0.1 MB)' in done.stdout
  assert done.stderr == ''
