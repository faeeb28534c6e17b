import hashlib
import io
import json
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from imagen_jax.synthetic import build
from imagen_jax.synthetic import examples
from imagen_jax.synthetic import openmoji
from imagen_jax.synthetic import shapes

WORLDS = {'shapes': shapes, 'openmoji': openmoji}


def drawn(dataset, out, **changes):
  options = {'num_examples': 40, 'size': 32, 'seed': 0, 'progress': False}
  return build.build(dataset, out, **options | changes)


def records(path, split):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(path)
  source = builder.as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  return [
    {
      'image': np.asarray(Image.open(io.BytesIO(record['image']))),
      'captions': [caption.decode() for caption in record['captions']],
      'key': record['key'].decode(),
    }
    for record in source
  ]


def hashes(path):
  return {
    file.relative_to(path): hashlib.sha256(file.read_bytes()).hexdigest()
    for file in path.rglob('*')
  }


@pytest.mark.parametrize('dataset', WORLDS)
def test_drawn_sets_can_be_read_with_tfds(tmp_path, dataset, capsys):
  report = drawn(dataset, tmp_path / 'deep' / 'set')
  world = WORLDS[dataset]
  captions = set()
  for split in ('train', 'heldout'):
    found = records(tmp_path / 'deep' / 'set', split)
    assert len(found) == report[f'num_{split}'] == 40
    assert len({record['key'] for record in found}) == 40
    for record in found:
      assert record['image'].shape == (32, 32, 3)
      (caption,) = record['captions']
      captions.add(caption)
      statement = world.parse(caption)
      assert world.is_heldout(statement) == (split == 'heldout')
  assert report['num_captions'] == len(captions)
  assert ('attribution' in report) == (dataset == 'openmoji')
  stored = json.loads((tmp_path / 'deep' / 'set/report.json').read_text())
  assert stored == report
  (line,) = capsys.readouterr().out.splitlines()
  assert '40 pictures to train on, 40 held out' in line


def test_pictures_belong_to_their_captions(tmp_path):
  from imagen_jax.synthetic import check_shapes

  drawn('shapes', tmp_path / 'set', size=64)
  for record in records(tmp_path / 'set', 'train'):
    right = check_shapes.score(record['image'], record['captions'][0])
    assert False not in right.values()


def test_same_arguments_same_bytes(tmp_path):
  for name, seed in (('a', 1), ('b', 1), ('c', 2)):
    drawn('shapes', tmp_path / name, seed=seed)
  assert hashes(tmp_path / 'a') == hashes(tmp_path / 'b')
  assert hashes(tmp_path / 'a') != hashes(tmp_path / 'c')


def test_workers_change_nothing(tmp_path, monkeypatch):
  drawn('shapes', tmp_path / 'alone')
  monkeypatch.setattr(examples, '_POOL_PAYS', 1)
  drawn('shapes', tmp_path / 'pool')
  assert hashes(tmp_path / 'alone') == hashes(tmp_path / 'pool')


def test_large_sets_have_several_shards(tmp_path, monkeypatch):
  monkeypatch.setattr(build, '_EXAMPLES_PER_SHARD', 15)
  drawn('shapes', tmp_path / 'set')
  shards = list((tmp_path / 'set').glob('shapes-train.array_record-*'))
  assert len(shards) == 3
  assert len(records(tmp_path / 'set', 'train')) == 40


def test_a_finished_set_is_kept(tmp_path, capsys):
  report = drawn('shapes', tmp_path / 'set')
  before = hashes(tmp_path / 'set')
  assert drawn('shapes', tmp_path / 'set') == report
  assert hashes(tmp_path / 'set') == before
  assert 'is already built: 40 pictures' in capsys.readouterr().out


def test_another_set_is_not_overwritten(tmp_path):
  drawn('shapes', tmp_path / 'set')
  with pytest.raises(ValueError, match='another dataset .seed 0 there, 5 ask'):
    drawn('shapes', tmp_path / 'set', seed=5)
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'thesis.txt').write_text('mine')
  with pytest.raises(ValueError, match='holds something that is no dataset'):
    drawn('shapes', other)
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(ValueError, match='holds something that is no dataset'):
    drawn('shapes', tmp_path / 'file')
  with pytest.raises(ValueError, match='cannot be made .Not a directory'):
    drawn('shapes', tmp_path / 'file' / 'set')


def test_what_a_killed_build_left_is_cleared(tmp_path):
  partial = tmp_path / '.set.partial'
  (partial / 'deep').mkdir(parents=True)
  (partial / 'shapes-train.array_record-00099').write_text('half')
  drawn('shapes', tmp_path / 'set')
  assert not partial.exists()
  assert not (tmp_path / 'set/shapes-train.array_record-00099').exists()


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise RuntimeError('out of paint')

  monkeypatch.setattr(shapes, 'render', fail)
  with pytest.raises(RuntimeError, match='out of paint'):
    drawn('shapes', tmp_path / 'set')
  assert list(tmp_path.iterdir()) == []


def test_two_builds_of_one_folder_are_refused(tmp_path):
  hold = (
    'import fcntl, os, sys\n'
    'os.mkdir(sys.argv[1])\n'
    'folder = os.open(sys.argv[1], os.O_RDONLY)\n'
    'fcntl.flock(folder, fcntl.LOCK_EX)\n'
    'print("locked", flush=True)\n'
    'sys.stdin.read()\n'
  )
  holder = subprocess.Popen(
    [sys.executable, '-c', hold, str(tmp_path / '.set.partial')],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  with holder:
    assert holder.stdout.readline() == b'locked\n'
    with pytest.raises(ValueError, match='is being built by another process'):
      drawn('shapes', tmp_path / 'set')
    holder.stdin.close()


@pytest.mark.parametrize(
  'dataset, changes, message',
  [
    ('cats', {}, "dataset is 'cats'; accepted: 'shapes', 'openmoji', 'folder'"),
    ('shapes', {'num_examples': 0}, 'num_examples is 0; accepted: 1 or more'),
    ('shapes', {'num_examples': None}, 'num_examples is not given'),
    ('shapes', {'size': None}, 'size is None; accepted: 16 to 4096'),
    ('shapes', {'size': 8}, 'size is 8; accepted: 16 to 4096'),
    ('shapes', {'seed': -1}, 'seed is -1; accepted: 0 or more'),
    ('shapes', {'source': 'x'}, "source is 'x' with dataset 'shapes'"),
    ('openmoji', {'num_objects': 0}, 'num_objects is 0; accepted: 1 to'),
    ('folder', {'size': None}, 'source is not given'),
    ('folder', {'source': 'x'}, "size is 32 with dataset 'folder'"),
  ],
)
def test_arguments_that_do_not_fit_are_refused(
  tmp_path, dataset, changes, message
):
  with pytest.raises(ValueError, match=message):
    drawn(dataset, tmp_path / 'set', **changes)
  assert list(tmp_path.iterdir()) == []


def make_folder(path, number, spoil=()):
  """Writes a folder of pictures; those numbered in `spoil` are truncated."""
  path.mkdir()
  lines = []
  for index in range(number):
    out = io.BytesIO()
    picture = np.random.default_rng(index).integers(0, 256, (30, 40, 3))
    Image.fromarray(picture.astype(np.uint8)).save(out, 'JPEG')
    half = len(out.getvalue()) // 2
    encoded = out.getvalue()[: half if index in spoil else None]
    (path / f'{index}.jpg').write_bytes(encoded)
    lines.append({'file': f'{index}.jpg', 'captions': [f'{index}', 'noise']})
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (path / 'captions.jsonl').write_text(text)
  return path


def from_folder(source, out, **changes):
  return build.build('folder', out, source=source, progress=False, **changes)


def test_a_folder(tmp_path):
  source = make_folder(tmp_path / 'source', 30, spoil=(3, 4))
  with (source / 'captions.jsonl').open('a') as lines:
    lines.write('{"file": "none.jpg", "caption": "a ghost"}\nnot JSON\n')
  report = from_folder(source, tmp_path / 'set')
  assert (report['num_train'], report['num_heldout']) == (27, 1)
  assert report['skipped'] == {
    'bad JSON line': {'count': 1, 'first': ['line 32']},
    'corrupt picture': {'count': 2, 'first': ['3.jpg', '4.jpg']},
    'missing file': {'count': 1, 'first': ['none.jpg']},
  }
  train = records(tmp_path / 'set', 'train')
  (heldout,) = records(tmp_path / 'set', 'heldout')
  keys = [record['key'] for record in train]
  assert keys == sorted(keys, key=lambda key: int(key.removesuffix('.jpg')))
  assert heldout['key'] not in keys and len(set(keys)) == 27
  for record in train:
    number = record['key'].removesuffix('.jpg')
    assert record['captions'] == [number, 'noise']
    want = Image.open(source / record['key'])
    np.testing.assert_array_equal(record['image'], np.asarray(want))


def test_the_first_lines_of_a_folder(tmp_path):
  source = make_folder(tmp_path / 'source', 10)
  report = from_folder(source, tmp_path / 'set', num_examples=4)
  assert report['num_train'] + report['num_heldout'] == 4


def test_a_changed_folder_is_another_set(tmp_path):
  source = make_folder(tmp_path / 'source', 4)
  report = from_folder(source, tmp_path / 'set')
  assert from_folder(source, tmp_path / 'set') == report
  with (source / 'captions.jsonl').open('a') as lines:
    lines.write('\n')
  with pytest.raises(ValueError, match='another dataset .captions_sha256'):
    from_folder(source, tmp_path / 'set')


def test_folders_with_nothing_to_use_are_refused(tmp_path):
  source = make_folder(tmp_path / 'source', 3, spoil=(0, 1, 2))
  with pytest.raises(ValueError, match='no pictures .*: 3 corrupt picture'):
    from_folder(source, tmp_path / 'set')
  one = make_folder(tmp_path / 'one', 1)
  with pytest.raises(ValueError, match='no pictures for the train split'):
    from_folder(one, tmp_path / 'set')
  with pytest.raises(ValueError, match='none is not a folder; accepted'):
    from_folder(tmp_path / 'none', tmp_path / 'set')
  assert not (tmp_path / 'set').exists()
