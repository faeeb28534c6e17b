"""Averages of any length, from snapshots to exports."""

import json
import shutil

import averaged
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from imagen_jax import export
from imagen_jax.train import posthoc


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run of 24 steps, a snapshot every other one."""
  workdir = tmp_path_factory.mktemp('posthoc') / 'run'
  averaged.run(workdir, averaged.config())
  return workdir


def farthest(params, wished):
  differ = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, wished)
  return max(jax.tree.leaves(differ))


def weights(folder):
  """All arrays of an export, as a tree."""
  found = {}
  for file in folder.glob('*.safetensors'):
    found |= safetensors.load_file(file)
  return export.unflatten(found)


@pytest.mark.parametrize(
  'length, step, near',
  [(0.12, None, 0.02), (0.07, 16, 0.03), (0.1, 24, 1e-6)],
)
def test_an_export_is_the_average_that_was_not_kept(
  length, step, near, workdir, tmp_path
):
  manifest = export.export_length(
    str(workdir), str(tmp_path), length=length, step=step, shard_bytes=4096
  )
  at = step or 24
  assert manifest['step'] == at
  assert manifest['text_identity'] == averaged.IDENTITY
  assert len(list(tmp_path.glob('*.safetensors'))) == 2
  wished = averaged.average(length, at)
  spread = farthest(averaged.params(at), wished)
  found = weights(tmp_path)
  assert found['stem']['kernel'].dtype == np.float32
  assert farthest(found, wished) < near * spread
  assert manifest['weights'] == 'power average'
  assert manifest['ema_length'] == length
  assert manifest['profile_error'] < 0.05
  # Of one that was kept, no other snapshot is read.
  num = manifest['snapshots']
  assert num == 1 if length == 0.1 else at // 4 < num <= at // 2


def test_of_half_the_bytes_it_is_nearly_the_same(workdir, tmp_path):
  coarse = averaged.config(ema_snapshot_dtype='bfloat16')
  averaged.run(tmp_path / 'run', coarse)
  found = []
  for run in (workdir, tmp_path / 'run'):
    export.export_length(str(run), str(tmp_path / 'out'), length=0.12)
    found.append(weights(tmp_path / 'out'))
  size = np.abs(found[0]['stem']['kernel']).max()
  assert 0 < farthest(*found) < 0.01 * size


def test_what_there_is_no_snapshot_of_is_refused(workdir, tmp_path):
  for run, options, words in (
    (workdir, {'step': 7}, '--at-step is 7, .* such as 4, 6, 8, 10$'),
    (
      workdir,
      {'length': 0.3},
      '--ema-length is 0.3; accepted: above 0, to 0.2',
    ),
    (
      workdir,
      {'length': 0.0},
      '--ema-length is 0.0; accepted: above 0, to 0.2',
    ),
    (
      tmp_path / 'none',
      {},
      'has no snapshots in ema/, of which --ema-length is',
    ),
  ):
    options = {'length': 0.12, **options}
    with pytest.raises(ValueError, match=words):
      export.export_length(str(run), str(tmp_path / 'out'), **options)
  assert not list(tmp_path.iterdir())


def test_a_damaged_snapshot_is_told_and_may_be_done_without(workdir, tmp_path):
  run = shutil.copytree(workdir, tmp_path / 'run')
  path = run / 'ema' / '20' / 'config' / 'metadata'
  said = json.loads(path.read_text())
  said['digests']['averages'] = '0'
  del said['digest']
  path.write_text(json.dumps(said))
  out = tmp_path / 'out'
  words = '20: averages is not what was saved.* remove this one to do without'
  with pytest.raises(ValueError, match=words):
    export.export_length(str(run), str(out), length=0.12)
  assert not (out / export.MANIFEST_FILE).exists()
  shutil.rmtree(run / 'ema' / '20')
  manifest = export.export_length(str(run), str(out), length=0.12)
  assert manifest['snapshots'] < 12
  with posthoc.Average(str(workdir), 0.12) as whole:
    assert manifest['profile_error'] > whole.error
