"""What is said of a stage, against one small enough to count by hand."""

import dataclasses
import re

import jax
import pytest

from imagen_jax import config
from imagen_jax import describe
from imagen_jax import flops
from imagen_jax import sharding
from imagen_jax.cli import main
from imagen_jax.train import state

UNET = config.UNetConfig(
  channels=(4,),
  num_res_blocks=(1,),
  self_attention=(True,),
  text_attention=(True,),
  head_dim=2,
  embed_dim=8,
  num_groups=2,
  remat=False,
  dtype='float32',
)
CONFIG = config.Config(
  stage=config.StageConfig(image_size=8, unet=UNET),
  text=config.TextConfig(max_length=3, embed_dim=6),
)


def with_unet(**changes):
  unet = dataclasses.replace(UNET, **changes)
  stage = dataclasses.replace(CONFIG.stage, unet=unet)
  return dataclasses.replace(CONFIG, stage=stage)


@pytest.fixture(scope='module')
def found():
  return describe.describe(CONFIG)


def test_parameters_are_the_networks(found):
  shapes = sharding.unbox(state.abstract_params(CONFIG))
  total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert sum(found.parameters.values()) == total
  # 3x3 kernels of 3 to 4 and 4 to 3 channels, and their biases.
  assert found.parameters['stem'] == 9 * 3 * 4 + 4
  assert found.parameters['out'] == 9 * 4 * 3 + 3
  assert list(found.parameters) == [
    *('time', 'text_pool', 'stem', 'down0', 'mid', 'up0', 'norm_out', 'out')
  ]
  pool = found.parameters['text_pool']
  # Four attentions: keys and values of tokens, and the tokens' norm.
  assert found.text_parameters == pool + 4 * (2 * (6 * 4 + 4) + 2 * 6)


def test_operations_of_the_forward_pass(found):
  """An image of 8x8; a layer of so many in and out is 2 in out a pixel."""
  pixels, tokens = 64, 3
  conv = lambda a, b: 2 * 9 * a * b * pixels
  dense = lambda a, b, n=1: 2 * a * b * n
  res = lambda a: conv(a, 4) + conv(4, 4) + dense(8, 8)
  attention = (
    # Query, key, value and what comes out; keys and values of tokens.
    4 * dense(4, 4, pixels)
    + 2 * dense(6, 4, tokens)
    # Logits and values: every pixel by every pixel and token, 4 wide.
    + 2 * dense(4, pixels + tokens, pixels)
  )
  skip = dense(8, 4, pixels)
  assert found.forward == {
    # Sinusoids of twice 16, at least.
    'time': dense(32, 8) + dense(8, 8),
    # One query of 4 heads over 3 tokens.
    'text_pool': dense(6, 8) * (1 + 2 * tokens)
    + 2 * dense(8, tokens)
    + dense(8, 8),
    'stem': conv(3, 4),
    'down0': res(4) + attention,
    'mid': 2 * res(4) + attention,
    # Two blocks, each given a skip.
    'up0': 2 * (res(8) + skip + attention),
    'out': conv(4, 3),
  }


def test_operations_of_a_step(found):
  """Three times the forward pass, but for gradients of what is given."""
  forward = sum(found.forward.values())
  assert 0.95 * 3 * forward < found.step < 3 * forward
  assert found.remat_step == 0


def test_rematerialisation_takes_operations_and_saves_bytes(found):
  full = describe.describe(with_unet(remat=True))
  products = describe.describe(
    with_unet(remat=True, remat_policy=('products',))
  )
  assert full.step == products.step == found.step
  assert full.remat_step > products.remat_step > found.step
  assert full.kept < products.kept < found.kept


def kept(run):
  return flops.kept_bytes(
    describe._loss(run), describe._params(run), describe._batch(run, 1)
  )


def test_a_level_has_a_policy_of_its_own():
  two = {
    name: getattr(UNET, name) * 2
    for name in (
      *('channels', 'num_res_blocks', 'self_attention', 'text_attention'),
    )
  }
  found = [
    kept(with_unet(**two, remat=True, remat_policy=policy))
    for policy in (('full',), ('none', 'full'), ('full', 'none'), ('none',))
  ]
  # The finer level has four times the pixels.
  assert found[0] < found[2] < found[1] < found[3]


def test_the_logits_of_attention_are_kept_where_all_is():
  """They alone grow with the square of the pixels."""
  for policy, squares in (('full', False), ('products', False), ('none', True)):
    small, large = (
      kept(run)
      for size in (8, 16)
      for run in [
        dataclasses.replace(
          CONFIG,
          stage=dataclasses.replace(
            with_unet(remat=True, remat_policy=(policy,)).stage,
            image_size=size,
          ),
        )
      ]
    )
    assert (large > 5 * small) == squares


def test_a_scan_is_counted_as_often_as_it_runs(found):
  plain = with_unet(num_res_blocks=(3,))
  scanned = with_unet(num_res_blocks=(3,), scan=(True,))
  one, other = describe.describe(plain), describe.describe(scanned)
  assert one.step == other.step > found.step
  assert one.parameters == other.parameters and one.forward == other.forward


def test_bytes_of_the_state():
  """Each average beside the parameters, and what the optimiser keeps."""
  shapes = sharding.unbox(state.abstract_params(CONFIG))
  num = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  changes = ['optimizer.name=adam', 'train.ema_lengths=[0.05, 0.1]']
  run = config.override(CONFIG, changes)
  counts = 2 * 4
  found = {'parameters': 4 * num, 'averages': 12 * num}
  found['optimiser'] = 8 * num + counts
  assert describe.state_bytes(run) == found
  short = config.override(run, ['optimizer.moment_dtype=bfloat16'])
  assert describe.state_bytes(short)['optimiser'] == 6 * num + counts
  frozen = 'optimizer.rules=[{"path": "*kernel", "freeze": true}]'
  frozen = config.override(run, [frozen])
  assert describe.state_bytes(frozen)['optimiser'] < num


CONFIG_FILE = """
from imagen_jax import config
UNET = config.UNetConfig(
  channels=(4,), num_res_blocks=(1,), self_attention=(False,),
  text_attention=(True,), head_dim=2, embed_dim=8, num_groups=2,
)
ROWS = {'small': {}, 'other': {}}
PAPER_PARAMETERS = {'small': 1000}


def get_config(row='small'):
  return config.Config(
    stage=config.StageConfig(row, 8, unet=UNET),
    text=config.TextConfig(max_length=3, embed_dim=6),
  )
"""


@pytest.fixture
def file(tmp_path):
  (tmp_path / 'net.py').write_text(CONFIG_FILE)
  return tmp_path / 'net.py'


def test_command_of_a_config(file, found, capsys, monkeypatch):
  arguments = ['describe', '--config', str(file), '--set', 'train.batch_size=8']
  assert main.main(arguments) == 0
  shown = capsys.readouterr().out
  (total,) = [line for line in shown.splitlines() if line.startswith('total')]
  count = int(total.split()[1].replace(',', ''))
  assert re.search(r'^paper +1,000 parameters', shown, re.MULTILINE)
  assert f'(ours: {count / 1000:.2f} of it)' in shown
  for words in (
    'forward, an image',
    'training step of 8',
    'of 8 images',
    'MiB',
    'state, over all devices',
    'averages 0.0, optimiser 0.0)',
  ):
    assert words in shown
  # What follows is about the paper's figure alone.
  monkeypatch.setattr(describe, 'describe', lambda run: found)
  assert main.main(['describe', '--config', f'{file}:other']) == 0
  assert 'paper' not in capsys.readouterr().out
  # A row's figure, also of a file that is named in another way.
  again = f'{file.parent}/./{file.name}:small'
  assert main.main(['describe', '--config', again]) == 0
  assert '1,000 parameters' in capsys.readouterr().out


def test_command_of_all_configs(file, capsys):
  assert main.main(['describe', '--all', '--configs', str(file.parent)]) == 0
  head, small, other = capsys.readouterr().out.splitlines()
  assert head.split() == [
    *('config', 'parameters', 'without', 'text', 'paper', 'ours/paper')
  ]
  count = int(small.split()[1].replace(',', ''))
  assert small.split()[3:] == ['1,000', f'{count / 1000:.2f}']
  assert other.split()[3:] == ['-', '-']
  assert small.split()[0] == f'{file}:small'


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--all', '--configs', 'nowhere'], "--configs is 'nowhere'; accepted: a"),
    (['--all', '--set', 'a=1'], '--set with --all; accepted: --set with --con'),
    (['--config', 'nowhere.py'], "--config is 'nowhere.py'; accepted: a file"),
  ],
)
def test_command_refuses(arguments, words, capsys):
  assert main.main(['describe', *arguments]) == 2
  assert words in capsys.readouterr().err
