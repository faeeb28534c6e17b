"""Training with the encoder in the program gives the losses of the store."""

import dataclasses
import pathlib
import re
import shutil

from letters import Letters
import pytest

from imagen_jax import config as config_lib
from imagen_jax.data import tasks
from imagen_jax.text import encoder as encoder_lib
from imagen_jax.text import encoders
from imagen_jax.text import identity
from imagen_jax.text import store as store_lib
from imagen_jax.text import tokenizer as tokenizer_lib
from imagen_jax.text import write_store
from imagen_jax.train import loop

pytestmark = pytest.mark.usefixtures('same_programs')


@pytest.fixture(scope='module')
def cfg(tiny, tmp_path_factory):
  """The tiny run, with the golden T5 and a store that it wrote."""
  plain = config_lib.load(tiny)
  text = dataclasses.replace(
    plain.text,
    encoder='tiny_online',
    embed_dim=32,
    max_length=24,
    rows=2,
    store=str(tmp_path_factory.mktemp('online') / 'store'),
  )
  row = encoders.Encoder('t5', 32, 2, 4, 8, 64, vocab_size=128, num_pieces=100)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(encoders.TABLE, 'tiny_online', row)
    patch.setattr(tokenizer_lib, 'load', lambda text: Letters())
    write_store.write(
      text.store,
      tasks.captions(plain),
      encoder_lib.TextEncoder(text),
      identity.of(text),
      rows=text.rows,
    )
    train = dataclasses.replace(
      plain.train, sample_every=8, eval_every=8, num_eval_examples=12
    )
    yield dataclasses.replace(plain, text=text, train=train)


@pytest.fixture(scope='module')
def from_store(cfg, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('from_store') / 'run'
  assert loop.train(cfg, str(workdir)).step == 8
  return workdir


def picture(workdir):
  return (workdir / 'samples' / 'step_00000008.png').read_bytes()


@pytest.mark.parametrize(
  'sizes',
  [
    ['mesh.data=8'],
    pytest.param(['mesh.fsdp=4'], marks=pytest.mark.slow),
  ],
)
def test_a_run_goes_on_online_bit_for_bit(
  sizes, cfg, from_store, runs, tmp_path
):
  """Half from the store, half online, without the store."""
  if sizes == ['mesh.data=8']:
    expected = from_store
  else:
    # Another mesh sums gradients in another order, so it has its own.
    expected = tmp_path / 'expected'
    loop.train(config_lib.override(cfg, sizes), str(expected))
  shutil.copytree(expected, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
  (tmp_path / 'run' / 'samples' / 'step_00000008.png').unlink()
  online = config_lib.override(cfg, [*sizes, 'text.online=true', 'text.store='])
  loop.train(online, str(tmp_path / 'run'))
  runs.assert_same(tmp_path / 'run', expected, 8)
  assert runs.seen(tmp_path / 'run') == runs.seen(expected)
  assert picture(tmp_path / 'run') == picture(expected)


def test_captions_that_are_cut_are_counted(cfg, from_store, tmp_path, capfd):
  """Of a run from a store, and of one online."""
  shutil.copytree(from_store, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
  manifest = store_lib.EmbeddingStore(cfg.text.store).manifest
  cut, every = manifest['num_cut'], manifest['num_captions']
  assert 0 < cut < every
  for settings, words in (
    (
      [],
      f'{cut} of {every} captions of text.store were cut to text.max_length',
    ),
    (
      ['text.online=true', 'train.num_steps=6'],
      r'\d+ of \d+ captions that this host has encoded were cut to .*, 24 tok',
    ),
  ):
    blind = ['train.sample_every=0', 'train.eval_every=0']
    changed = config_lib.override(cfg, [*blind, *settings])
    loop.train(changed, str(tmp_path / 'run'), allow_config_change=True)
    assert re.search(words, capfd.readouterr().err)
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8', ignore_errors=True)


def test_online_is_of_the_encoder_of_the_checkpoint(cfg, from_store, tmp_path):
  shutil.copytree(from_store, tmp_path / 'run')
  other = pathlib.Path(cfg.text.checkpoint).parent / 't5_1_1_bf16'
  changed = config_lib.override(
    cfg, ['text.online=true', f'text.checkpoint={other}']
  )
  with pytest.raises(ValueError, match=r'differs .*: text.checkpoint \(finger'):
    loop.train(changed, str(tmp_path / 'run'))


def test_captions_that_the_store_lacks_are_told_before_the_first_step(
  cfg, tmp_path
):
  short = str(tmp_path / 'short')
  (source, *_) = tasks.captions(cfg)
  source.fingerprint = 'some of it'
  source.read, read = lambda indices: read(indices[:-5]), source.read
  write_store.write(
    short,
    [source],
    encoder_lib.TextEncoder(cfg.text),
    identity.of(cfg.text),
    rows=cfg.text.rows,
  )
  lacking = config_lib.override(cfg, [f'text.store={short}'])
  pattern = r'lacks \d+ of the \d+ captions of data.tasks\[\w+\] \(.*; the fir'
  with pytest.raises(ValueError, match=pattern):
    loop.train(lacking, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
