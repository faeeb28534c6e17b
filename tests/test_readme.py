"""What README.md tells a person to type is what the programs take."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from imagen_jax.cli import main
from imagen_jax.text import store as store_lib


def blocks(text):
  """Indented lines that are commands, continued lines joined."""
  joined = re.sub(r'\\\n\s*', '', text)
  lines = re.findall(r'^    (\S.*)$', joined, flags=re.MULTILINE)
  # A comment behind a command is not a part of it.
  return [re.sub(r'\s{2,}#.*', '', line) for line in lines]


@pytest.fixture
def text(repo):
  return (repo / 'README.md').read_text()


def test_scripts_exist(repo, text):
  scripts = set(re.findall(r'\blaunch/[\w.]+', text))
  assert len(scripts) > 3
  # pod.env is what a person makes of the example.
  missing = {s for s in scripts if not (repo / s).exists()}
  assert missing <= {'launch/pod.env'}


def test_pictures_and_files_exist(repo, text):
  links = [
    link
    for link in re.findall(r'\]\(([^)]+)\)', text)
    if not link.startswith('https://')
  ]
  assert links and all((repo / link).exists() for link in links)


def test_pod_commands_rehearse(repo, text):
  """Settings as in the example, and nothing is called."""
  commands = [line for line in blocks(text) if 'launch/pod.sh' in line]
  assert len(commands) == 9
  settings = {
    match[1]: match[2] or 'x'
    for match in re.finditer(
      r'^#?\s*([A-Z_]+)=(\S*)',
      (repo / 'launch/pod.env.example').read_text(),
      flags=re.MULTILINE,
    )
  }
  for command in commands:
    rehearsed = command.replace('pod.sh', 'pod.sh --dry-run', 1)
    subprocess.run(
      ['bash', '-c', rehearsed],
      cwd=repo,
      env={**os.environ, **settings},
      check=True,
      capture_output=True,
    )


def test_commands_of_the_table_are_taken(text, capsys):
  """All commands are there, and each row's flags are that command's."""
  rows = re.findall(r'^\| `imagen-jax (\w+)(.*?)` \|', text, re.MULTILINE)
  assert [name for name, _ in rows] == list(main.COMMANDS)
  for name, rest in rows:
    helps = [[name]]
    if name == 'data':
      helps = [[name, each] for each in rest.strip().split('\\|')]
    for words in helps:
      with pytest.raises(SystemExit, match='0'):
        main.main([*words, '--help'])
    shown = capsys.readouterr().out
    flags = re.findall(r'--[\w-]+', rest)
    assert all(flag in shown for flag in flags), (name, flags)


CONFIG = """
from imagen_jax import config

def get_config():
  return config.override(config.load({tiny!r}), [
    'text.encoder=t5_1_1_xxl', 'text.checkpoint=', 'text.vocabulary=',
    'text.embed_dim=32', 'text.max_length=24', 'text.rows=2', 'text.store=',
    'train.num_steps=2', 'train.log_every=1', 'train.checkpoint_every=1',
  ])
"""


@pytest.fixture
def small_world(tiny, tiny_t5_xxl, tmp_path, monkeypatch):
  """A folder with configs/base64.py, tiny; a T5 XXL, tiny; and the buckets."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'base64.py').write_text(CONFIG.format(tiny=tiny))
  tiny_t5_xxl['gs://BUCKET'] = str(tmp_path / 'BUCKET')
  return tmp_path


def test_commands_of_encoders_and_the_store_run(
  text, small_world, monkeypatch, capfd
):
  """As they are typed, one after the other."""
  section = text.split('## Text encoders and the store')[1].split('\n## ')[0]
  commands = [shlex.split(line) for line in blocks(section)]
  verbs = [command[:2] for command in commands]
  assert verbs == [
    ['imagen-jax', verb]
    for verb in ('encode', 'encode', 'train', 'encode', 'encode', 'train')
  ]
  for command in commands:
    monkeypatch.setattr(sys, 'argv', command)
    assert main.main(command[1:]) == 0, capfd.readouterr().err
  stores = [
    store_lib.EmbeddingStore(str(small_world / name))
    for name in ('STORE', 'SMALL', 'BUCKET/text')
  ]
  kinds = [store.manifest['identity']['stored_dtype'] for store in stores]
  assert kinds == ['bfloat16', 'int8', 'bfloat16']
  assert stores[0].manifest == stores[2].manifest
  assert (small_world / 'D' / 'checkpoints' / '2').is_dir()
