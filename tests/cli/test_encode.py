"""`imagen-jax encode`, with MiniLM's place taken by a golden T5."""

import argparse
import re
import sys
import types

import golden_files
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import data
from imagen_jax.cli import encode
from imagen_jax.text import encoder as encoder_lib
from imagen_jax.text import encoders
from imagen_jax.text import identity as identity_lib
from imagen_jax.text import spool as spool_lib
from imagen_jax.text import store as store_lib
from imagen_jax.text import tokenizer as tokenizer_lib


class Words(tokenizer_lib.Tokenizer):
  """A token a word."""

  num_special = 1

  def __init__(self):
    super().__init__(b'words', 128)

  def _encode(self, captions, max_length):
    ids = [
      [2 + sum(map(ord, word)) % 120 for word in caption.split()]
      for caption in captions
    ]
    cut = [len(i) >= max_length for i in ids]
    return [i[: max_length - 1] + [1] for i in ids], cut


class Encoder:
  """Embeds a token as its code."""

  row_multiple = 1
  made = 0

  def __init__(self, text, mesh):
    Encoder.made += 1
    self.tokenizer = Words()

  def encode_tokens(self, tokens, mask):
    return np.repeat(tokens[..., None], 4, axis=-1).astype(np.float32)


@pytest.fixture
def job(tmp_path, monkeypatch):
  """Runs the command on the given captions; returns its exit status."""
  monkeypatch.setattr(encoder_lib, 'TextEncoder', Encoder)
  monkeypatch.setattr(Encoder, 'made', 0)
  monkeypatch.setattr(
    identity_lib,
    'of',
    lambda text: identity_lib.declared(text) | {'checkpoint': 'c'},
  )
  config = tmp_path / 'config.py'
  config.write_text(
    'from imagen_jax import config\n'
    'def get_config():\n'
    '  return config.Config(text=config.TextConfig(\n'
    "      encoder='fake', max_length=6, embed_dim=4))\n"
  )

  def run(captions, *flags):
    tasks = types.ModuleType('imagen_jax.data.tasks')
    tasks.captions = lambda config: [spool_lib.Listed(captions)]
    monkeypatch.setitem(sys.modules, 'imagen_jax.data.tasks', tasks)
    monkeypatch.setattr(data, 'tasks', tasks, raising=False)
    parser = argparse.ArgumentParser()
    encode.add_arguments(parser)
    out = str(tmp_path / 'store')
    return encode.main(
      parser.parse_args(['--config', str(config), '--out', out, *flags])
    )

  return run


CAPTIONS = ['a red cat', 'a dog', 'a dog', '', 'one two three four five six']


def test_what_is_added_is_told_with_what_was_there(job, capsys):
  assert job(CAPTIONS) == 0
  capsys.readouterr()
  assert job([*CAPTIONS, 'seven eight nine ten eleven twelve more']) == 0
  said = capsys.readouterr().out
  assert 'holds 4 captions' in said
  assert 'left out 2 empty captions, in all 2 parts' in said
  assert 'cut 2 captions that are longer than text.max_length (6 tok' in said
  assert '(6 tokens), in all 2 parts' in said


def test_encodes_distinct_captions_and_says_so(job, tmp_path, capsys):
  assert job(CAPTIONS) == 0
  said = capsys.readouterr()
  assert 'encoded 3 captions on this host in ' in said.out
  for each in ('captions/s, ', 'tokens/s a chip, ', 'real tokens); '):
    assert each in said.out
  assert 'holds 3 captions' in said.out
  assert 'left out 1 empty captions' in said.out
  assert (
    'cut 1 captions that are longer than text.max_length (6 tok' in said.out
  )
  # With the time that is left.
  assert re.search(r'encode: .*3/3 \[\d\d:\d\d<\d\d:\d\d', said.err)
  store = store_lib.EmbeddingStore(tmp_path / 'store')
  embed, mask = store.lookup(['a dog', 'a red cat'], 6)
  np.testing.assert_array_equal(mask.sum(1), [3, 4])
  expected, _ = Words().ragged(['a dog'], 6)
  np.testing.assert_array_equal(embed[0, :3, 0], expected[0])


def test_a_second_run_does_nothing_and_a_larger_one_adds(job, capsys):
  job(CAPTIONS)
  assert Encoder.made == 1
  capsys.readouterr()
  assert job(CAPTIONS) == 0
  assert 'nothing to encode: ' in capsys.readouterr().out
  assert Encoder.made == 1
  assert job([*CAPTIONS, 'a new one']) == 0
  assert 'encoded 1 captions on' in capsys.readouterr().out


def test_a_store_of_another_config_is_refused(job):
  job(CAPTIONS)
  with pytest.raises(ValueError, match='max_length is 6 in the store, 7 in'):
    job(CAPTIONS, '--set', 'text.max_length=7')


def test_missing_flags_are_told():
  parser = argparse.ArgumentParser()
  encode.add_arguments(parser)
  with pytest.raises(ValueError, match='--config or --out is missing; acc'):
    encode.main(parser.parse_args(['--out', 'x']))


def test_verify_of_no_store_is_one_line(tmp_path, capsys):
  parser = argparse.ArgumentParser()
  encode.add_arguments(parser)
  with pytest.raises(ValueError, match='has no manifest.json: not a store'):
    encode.main(parser.parse_args(['--verify', str(tmp_path)]))
  assert capsys.readouterr().err == ''


def test_verify_tells_what_is_corrupt(job, tmp_path, capsys):
  job(CAPTIONS)
  parser = argparse.ArgumentParser()
  encode.add_arguments(parser)
  args = parser.parse_args(['--verify', str(tmp_path / 'store')])
  capsys.readouterr()
  assert encode.main(args) == 0
  said = capsys.readouterr()
  assert '3 captions, 13 tokens in 1 shards; 0 of the shards are' in said.out
  (index,) = tmp_path.glob('store/part-000/*.npy')
  index.write_bytes(index.read_bytes()[:-1])
  assert encode.main(args) == 1
  said = capsys.readouterr()
  assert '1 of the shards are corrupt' in said.out
  assert 'shard-000000-of-000001: shard-000000-of-000001.npy: not' in said.err


def test_tasks_without_captions_are_refused(job):
  with pytest.raises(ValueError, match='have no captions; accepted'):
    job(['', ' '])


def test_the_golden_way_through(tiny_t5, tmp_path, monkeypatch, capsys):
  """The real encoder behind the command, against its own direct outputs."""
  text, config = tiny_t5
  tasks = types.ModuleType('imagen_jax.data.tasks')
  tasks.captions = lambda config: [spool_lib.Listed(CAPTIONS)]
  monkeypatch.setitem(sys.modules, 'imagen_jax.data.tasks', tasks)
  monkeypatch.setattr(data, 'tasks', tasks, raising=False)
  parser = argparse.ArgumentParser()
  encode.add_arguments(parser)
  out = str(tmp_path / 'store')
  flags = ['--config', config, '--out', out]
  assert encode.main(parser.parse_args(flags)) == 0

  store = store_lib.EmbeddingStore(out)
  store.check(text)
  captions = ['a red cat', 'a dog']
  embed, mask = store.lookup(captions, 6)
  direct = encoder_lib.TextEncoder(text).encode(captions)
  np.testing.assert_array_equal(mask, direct.mask)
  # The store rounds to bfloat16, eight bits.
  np.testing.assert_allclose(
    embed.astype(np.float32), direct.embed, rtol=2**-8, atol=1e-4
  )


@pytest.fixture
def tiny_t5(tmp_path, monkeypatch):
  """Config and config file of the golden T5 1.1, as a user names it."""
  golden_files.unpack(tmp_path, only='t5_1_1/')
  monkeypatch.setitem(
    encoders.TABLE,
    'tiny',
    encoders.Encoder('t5', 32, 2, 4, 8, 64, vocab_size=128, num_pieces=128),
  )
  monkeypatch.setattr(tokenizer_lib, 'load', lambda text: Words())
  fields = {
    'encoder': 'tiny',
    'checkpoint': str(tmp_path / 't5x-tiny' / 't5_1_1'),
    'max_length': 6,
    'embed_dim': 32,
  }
  config = tmp_path / 'golden.py'
  config.write_text(
    'from imagen_jax import config\n'
    'def get_config():\n'
    f'  return config.Config(text=config.TextConfig(**{fields!r}))\n'
  )
  return config_lib.TextConfig(**fields), str(config)
