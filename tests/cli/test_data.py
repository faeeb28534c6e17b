import argparse
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import shard_files

from imagen_jax.cli import data
from imagen_jax.cli import main as main_lib

CONFIG = """
from imagen_jax import config


def get_config():
  unet = config.UNetConfig(
      channels=(32,),
      num_res_blocks=(1,),
      self_attention=(False,),
      text_attention=(False,),
  )
  return config.Config(
      stage=config.StageConfig(image_size=16, unet=unet),
      data=config.DataConfig(tasks=(config.TaskConfig('shapes', 'missing'),)),
  )
"""


def run(*args):
  parser = argparse.ArgumentParser()
  data.add_arguments(parser)
  return data.main(parser.parse_args(list(map(str, args))))


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """Folder with shapes/, built by the command, and config.py."""
  folder = tmp_path_factory.mktemp('cli')
  (folder / 'config.py').write_text(CONFIG)
  status = run(
    'build',
    '--dataset=shapes',
    f'--out={folder / "shapes"}',
    '--num-examples=12',
    '--size=16',
    '--seed=3',
  )
  assert status == 0
  return folder


def inspect(folder, *args):
  return run(
    'inspect',
    f'--config={folder / "config.py"}',
    f'--set=data.tasks.shapes.path={folder / "shapes"}',
    '--set=text.encoder=byt5_small',
    *args,
  )


def test_what_build_writes_inspect_reads(built, capsys):
  sheet = built / 'sheet.png'
  assert inspect(built, f'--out={sheet}', '--num=4', '--scan=5') == 0
  out = capsys.readouterr().out
  assert 'task shapes: 100.0% of the mixture\n  train: 12 records\n' in out
  assert re.search(r'captions: \d distinct among 5 read', out)
  # Of bytes, and one that ends them.
  assert re.search(r'tokens: \d+ to \d+ \(mean [\d.]+, 95% have at most', out)
  assert 'bad records: none' in out
  assert re.search(r'reading: [\d,]+ images/s', out)
  assert f'contact sheet: {sheet}' in out
  assert np.asarray(Image.open(sheet)).std() > 5


def test_one_task_is_looked_into_and_tokens_are_left_out(built, capsys):
  assert inspect(built, '--task=shapes', '--no-tokens', '--scan=2') == 0
  out = capsys.readouterr().out
  assert 'task shapes: 100.0%' in out and 'tokens' not in out
  with pytest.raises(ValueError, match=r"is 'no'; accepted: .*\['shapes'\]"):
    inspect(built, '--task=no')


def test_the_number_of_examples_is_needed(tmp_path):
  with pytest.raises(ValueError, match='num_examples is not given'):
    run('build', '--dataset=shapes', f'--out={tmp_path / "a"}', '--size=16')


def test_a_bucket_is_no_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(
    ValueError, match="--out is 'gs://b/a'; accepted: a folder"
  ):
    run(
      *('build', '--dataset', 'shapes', '--out', 'gs://b/a'),
      *('--num-examples', 4, '--size', 16),
    )
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('flag', ['num', 'scan'])
def test_numbers_below_one_are_refused(built, flag):
  with pytest.raises(ValueError, match=f'--{flag} is 0; accepted: 1 or more'):
    inspect(built, f'--{flag}=0')


def test_a_missing_dataset_is_refused(built):
  with pytest.raises(ValueError, match=r"path is 'missing', which is no fold"):
    run('inspect', f'--config={built / "config.py"}', '--no-tokens')


def test_the_table_of_commands_has_the_same_line():
  assert main_lib.COMMANDS['data'] == data.HELP


SHARDS = """
from imagen_jax import config


def get_config():
  tasks = tuple(
      config.TaskConfig(kind, f'{folder}/{{kind}}', kind=kind)
      for kind in ('webdataset', 'parquet')
  )
  tasks += (config.TaskConfig('old', 'missing'),)
  return config.Config(data=config.DataConfig(tasks=tasks))
"""


@pytest.fixture
def shards(tmp_path):
  """Config file of two tasks with shards, and one without."""
  for kind in ('webdataset', 'parquet'):
    shard_files.write_many(
      kind, tmp_path / kind, map(shard_files.record, range(6))
    )
  (tmp_path / 'config.py').write_text(SHARDS.format(folder=tmp_path))
  return tmp_path / 'config.py'


def test_shards_are_indexed(shards, capsys):
  cut = shards.parent / 'webdataset/00001.tar'
  cut.write_bytes(cut.read_bytes()[:2000])
  assert run('index', '--config', shards, '--workers=1') == 0
  out = capsys.readouterr().out
  lines = (
    r'web.*index: 5 records in 2 shards\n1 shards are damaged:\n  00001.tar'
  )
  assert re.search(lines, out)
  assert re.search('parquet.*index: 6 records in 2 shards', out)
  assert 'old' not in out


def test_parts_of_shards_are_indexed(shards, capsys):
  command = ['index', '--config', shards, '--task=parquet', '--workers=1']
  for part in ('0/2', '1/2'):
    assert run(*command, f'--part={part}') == 0
    assert f'part {part} of ' in capsys.readouterr().out
  assert run(*command) == 0
  assert '6 records in 2 shards' in capsys.readouterr().out


@pytest.mark.parametrize(
  'flag, words',
  [
    ('--task=old', r"--task is \['old'\]; accepted: tasks .*\['webdataset', "),
    ('--part=2/2', "--part is '2/2'; accepted: I/N"),
    ('--part=x', "--part is 'x'; accepted: I/N"),
    ('--workers=0', '--workers is 0; accepted: 1 or more'),
    ('--set=data.tasks.parquet.path=/no', 'which names no file that is there'),
  ],
)
def test_what_cannot_be_indexed_is_refused(shards, flag, words):
  with pytest.raises(ValueError, match=words):
    run('index', '--config', shards, flag)


def test_indexing_takes_no_tensorflow(shards):
  code = (
    'import sys; from imagen_jax.cli import main; '
    f'main.main(["data", "index", "--config", {str(shards)!r}]); '
    'assert "tensorflow" not in sys.modules and "jax" not in sys.modules'
  )
  # Guarded, as its workers import the module that started them.
  script = shards.parent / 'script.py'
  script.write_text(f'if __name__ == "__main__":\n  exec({code!r})\n')
  subprocess.run([sys.executable, script], check=True, capture_output=True)


@pytest.mark.parametrize(
  'flags, words',
  [
    (('--dataset=shapes', '--sizes=64'), '--sizes is given without --config;'),
    (('--dataset=shapes', '--allow-bad'), '--allow-bad is given without --con'),
    (('--config=C', '--size=64'), '--size is given without --dataset; accept'),
    (('--config=C', '--seed=0'), '--seed is given without --dataset; accept'),
  ],
)
def test_flags_of_one_build_are_refused_with_the_other(tmp_path, flags, words):
  with pytest.raises(ValueError, match=words):
    run('build', f'--out={tmp_path / "out"}', *flags)
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
  'flags, words',
  [
    (('--sizes=64,x',), "--sizes is '64,x'; accepted: pixels, as 64,256"),
    (('--sizes=256,64',), "--sizes is '256,64'; accepted: pixels, each more"),
    (('--workers=0',), '--workers is 0 with --runner DirectRunner; accepted'),
    (
      ('--runner=FlinkRunner', '--workers=2'),
      '--workers is 2 with --runner FlinkRunner; accepted: 1 or more with Dir',
    ),
    (('--beam-option=--a=1',), "--beam-option is '--a=1'; accepted: NAME=VAL"),
  ],
)
def test_a_build_is_refused_before_anything_is_read(shards, flags, words):
  out = shards.parent / 'out'
  with pytest.raises(ValueError, match=words):
    # argparse takes '--a=1' for a flag of its own but in this form.
    run('build', f'--config={shards}', f'--out={out}', *flags)
  assert not out.exists()
