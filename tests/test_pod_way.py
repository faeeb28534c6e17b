"""The documented way from a folder of pictures to samples, in a bucket.

What README.md and `launch/pod.sh --help` tell a person to type is taken from
there, and given to the real code.
"""

import json
import re
import shlex
import sys

import numpy as np
from PIL import Image
import pytest

from imagen_jax import config as config_lib
from imagen_jax.cli import main

SOURCES = ('README.md', 'launch/pod.sh')


def commands(repo, source):
  """Words of each documented command: of imagen-jax, gcloud, pod.sh fetch."""
  text = (repo / source).read_text()
  if source == 'README.md':
    text = text.split('## From the quickstart')[1].split('\n## ')[0]
    prefix = '    '
  else:
    text = text.split('\n# The 2B base stage')[1].split('\nset -e')[0]
    prefix = '#   '
  joined = re.sub(r'\\\n[#\s]*', '', text)
  lines = [
    line.removeprefix(prefix)
    for line in joined.splitlines()
    if line.startswith(prefix)
  ]
  found = []
  for line in lines:
    words = shlex.split(line.replace('$BUCKET', 'BUCKET'), comments=True)
    if words[:3] == ['bash', 'launch/pod.sh', 'run']:
      words = words[5:] if words[3] == '--host' else words[3:]
    elif words[:3] == ['bash', 'launch/pod.sh', 'fetch']:
      words = words[2:]
    if words and words[0] in ('imagen-jax', 'gcloud', 'fetch'):
      found.append(words)
  return found


def parsed(words):
  """The arguments of one command of imagen-jax."""
  command = __import__(f'imagen_jax.cli.{words[1]}', fromlist=['main'])
  return main._parser(words[1], command).parse_args(words[1:])


@pytest.mark.parametrize('source', SOURCES)
def test_each_command_finds_what_those_before_it_made(source, repo):
  way = commands(repo, source)
  verbs = [words[1] if words[0] == 'imagen-jax' else words[0] for words in way]
  assert [verb for verb in verbs if verb != 'fetch'] == [
    *('data', 'gcloud', 'encode', 'train', 'export', 'sample'),
  ]
  local, there = set(), {}  # Folders here; those of the bucket, and of whom.
  for words in way:
    if words[0] == 'gcloud':
      *_, folder, bucket = words
      assert folder in local
      there[f'{bucket}/{folder}'] = 'data'
      continue
    if words[0] == 'fetch':
      assert words[1] in there
      continue
    verb, args = words[1], parsed(words)
    if verb == 'data':
      local.add(args.out)
      continue
    if verb in ('encode', 'train'):
      file, _, row = args.config.partition(':')
      path = f'{repo / file}{":" + row if row else ""}'
      cfg = config_lib.override(config_lib.load(path), args.set)
      for task in cfg.data.tasks:
        assert there.get(task.path) == 'data', (verb, task)
    if verb == 'train':
      assert there.get(cfg.text.store) == 'encode'
    elif verb == 'export':
      assert there.get(args.workdir) == 'train'
    elif verb == 'sample':
      assert {there.get(place) for place in args.weights} == {'export'}
    there[args.workdir if verb == 'train' else args.out] = verb


def test_configs_tell_the_same_places(repo):
  """The docstring of each paper config has `train` with all its fields."""
  for name in ('base64', 'sr256', 'sr1024'):
    text = (repo / 'configs' / f'{name}.py').read_text()
    joined = re.sub(r'\\\n\s*', '', text)
    lines = re.findall(r'^    (imagen-jax train .*)$', joined, re.MULTILINE)
    assert lines, name
    for line in lines:
      args = parsed(shlex.split(line))
      file = args.config.replace('configs/', f'{repo}/configs/')
      cfg = config_lib.override(config_lib.load(file), args.set)
      assert cfg.text.store == 'gs://BUCKET/text'
      assert [task.path for task in cfg.data.tasks] == ['gs://BUCKET/pairs']
      assert args.workdir == f'gs://BUCKET/{name}'


CONFIG = """
from imagen_jax import config

def get_config():
  tiny = config.load({tiny!r})
  data = config.DataConfig(tasks=(config.TaskConfig('pairs', path=''),))
  return config.override(config.Config(
    stage=tiny.stage, text=tiny.text, data=data, optimizer=tiny.optimizer,
    train=tiny.train,
  ), [
    'text.encoder=t5_1_1_xxl', 'text.checkpoint=', 'text.vocabulary=',
    'text.embed_dim=32', 'text.max_length=24', 'text.rows=2', 'text.store=',
    'train.num_steps=2', 'train.checkpoint_every=1', 'train.sample_every=2',
  ])
"""


@pytest.fixture
def small_world(tiny, tiny_t5_xxl, tmp_path, monkeypatch):
  """A folder with PICTURES and configs/base64.py, tiny, as is T5 XXL."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'base64.py').write_text(CONFIG.format(tiny=tiny))
  source = tmp_path / 'PICTURES'
  source.mkdir()
  lines = []
  rng = np.random.default_rng(0)
  for number in range(120):
    pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(source / f'{number}.png')
    lines.append({'file': f'{number}.png', 'caption': f'noise {number}'})
  (source / 'captions.jsonl').write_text(
    '\n'.join(json.dumps(line) for line in lines)
  )
  return tmp_path


@pytest.mark.slow
def test_the_way_is_gone(
  repo, small_world, bucket, storage_server, monkeypatch, capfd
):
  """From README.md, each command as it is typed, but for the bucket's name."""
  for words in commands(repo, 'README.md'):
    words = [word.replace('BUCKET', bucket) for word in words]
    if words[0] == 'gcloud':
      storage_server.upload(small_world / words[-2], bucket, words[-2])
    elif words[0] == 'imagen-jax':
      monkeypatch.setattr(sys, 'argv', words)
      assert main.main(words[1:]) == 0, capfd.readouterr().err
  names = storage_server.names(bucket)
  for name in (
    *('pairs/dataset_info.json', 'text/manifest.json', 'base64/config.json'),
    *('base64/metrics.jsonl', 'base64/samples/step_00000002.png'),
    *('exports/base64/manifest.json', 'samples/grid.png'),
  ):
    assert name in names
