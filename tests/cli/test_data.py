import argparse
import re

import numpy as np
from PIL import Image
import pytest

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
    *args,
  )


def test_what_build_writes_inspect_reads(built, capsys):
  sheet = built / 'sheet.png'
  assert inspect(built, f'--out={sheet}', '--num=4', '--scan=5') == 0
  out = capsys.readouterr().out
  assert 'task shapes: 100.0% of the mixture\n  train: 12 records\n' in out
  assert re.search(r'captions: \d distinct among 5 read', out)
  assert 'bad records: none' in out
  assert re.search(r'reading: [\d,]+ images/s', out)
  assert f'contact sheet: {sheet}' in out
  assert np.asarray(Image.open(sheet)).std() > 5


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
    run('inspect', f'--config={built / "config.py"}')


def test_the_table_of_commands_has_the_same_line():
  assert main_lib.COMMANDS['data'] == data.HELP
