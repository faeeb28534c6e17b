"""`imagen-jax sample`: what it asks of the sampler, and what it refuses."""

import json

import pytest

from imagen_jax import generate
from imagen_jax.cli import main


@pytest.fixture
def asked(monkeypatch):
  """Runs the command; returns what it would have sampled."""
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)
  calls = []
  monkeypatch.setattr(
    generate, 'generate', lambda *args, **kwargs: calls.append((args, kwargs))
  )

  def run(*flags, weights=('base', 'sr')):
    argv = ['sample', '--weights', *weights, '--out', 'out', *flags]
    assert main.main(argv) == 0
    return calls.pop()

  return run


def test_defaults_are_the_stages_own(asked):
  args, options = asked('--prompt', 'a cat', '--prompt', 'a dog')
  assert args == (['base', 'sr'], ['a cat', 'a dog'], 'out')
  assert options == {
    'num': 1,
    'guidance_weights': [None],
    'steps': None,
    'sampler': None,
    'seed': 0,
    'batch_size': 64,
    'text_checkpoint': None,
    'text_vocabulary': None,
    'devices_per_image': 1,
    'preset': None,
    'settings': [],
    'image': None,
    'mask': None,
    'strength': None,
    'resample': None,
  }


def test_numbers_are_for_all_stages_or_one_each(asked):
  flags = ['--guidance-weight', '0', '3', '7.5,4', '--steps', '256,128']
  _, options = asked('--prompt', 'x', *flags)
  assert options['guidance_weights'] == [[0, 0], [3, 3], [7.5, 4]]
  assert options['steps'] == [256, 128]
  _, options = asked('--prompt', 'x', '--steps', '9', weights=('base',))
  assert options['steps'] == [9]


def test_a_preset_and_settings_are_handed_on(asked):
  flags = ['--preset', 'fast', '--set', 'rho=3', '--set', 'sr.churn=1']
  _, options = asked('--prompt', 'x', *flags)
  assert options['preset'] == 'fast'
  assert options['settings'] == ['rho=3', 'sr.churn=1']


@pytest.mark.parametrize(
  'flags, strength',
  [
    ([], None),
    (['--strength', '0.3'], [0.3, 0.3]),
    (['--strength', '0.3,1'], [0.3, 1]),
    (['--mask', 'm.png'], None),
    (['--mask', 'm.png', '--strength', '0.9', '--resample', '5'], [0.9, 0.9]),
  ],
)
def test_a_picture_to_start_from(flags, strength, asked):
  _, options = asked('--prompt', 'x', '--init-image', 'i.png', *flags)
  assert options['image'] == 'i.png'
  assert options['mask'] == ('m.png' if 'm.png' in flags else None)
  assert options['strength'] == strength
  assert options['resample'] == (5 if '5' in flags else None)


def test_prompts_of_a_file_come_after_the_others(asked, tmp_path):
  file = tmp_path / 'prompts.txt'
  file.write_text('\n  a red héron \n\na dog\n', encoding='utf-8')
  args, _ = asked('--prompts', str(file), '--prompt', 'first')
  assert args[1] == ['first', 'a red héron', 'a dog']


@pytest.mark.parametrize(
  'flags, words',
  [
    ([], 'no prompt, or an empty one; accepted: --prompt'),
    (['--prompt', ' '], 'no prompt, or an empty one'),
    (['--prompts', 'none.txt'], "--prompts is 'none.txt'; accepted: a text"),
    (['--num', '0'], '--num is 0; accepted: 1 or more'),
    (['--batch-size', '-1'], '--batch-size is -1; accepted: 1 or more'),
    (['--steps', '4,2,1'], "'4,2,1'; accepted: one number, 1 or more, for"),
    (['--steps', '0'], "--steps is '0'; accepted: one number, 1 or more"),
    (['--steps', '2.5'], "--steps is '2.5'"),
    (['--guidance-weight', 'x'], "--guidance-weight is 'x'; accepted: one n"),
    (['--guidance-weight=-1'], "--guidance-weight is '-1'"),
    (['--guidance-weight', 'nan'], "--guidance-weight is 'nan'"),
    (['--guidance-weight', 'inf,1'], "--guidance-weight is 'inf,1'"),
    (['--resample', '0'], '--resample is 0; accepted: 1 or more'),
    (['--resample', '4'], '--resample is 4 without --mask; accepted: with'),
    (['--mask', 'm.png'], '--mask without --init-image; accepted: with a'),
    (['--strength', '0.5'], '--strength without --init-image; accepted: with'),
    (
      ['--init-image', 'i.png', '--strength', '1.5'],
      "--strength is '1.5'; accepted: above 0 and up to 1, for all stages",
    ),
    (['--init-image', 'i.png', '--strength', '0'], "--strength is '0'; acc"),
    (['--init-image', 'i.png', '--strength', 'x'], "--strength is 'x'; acce"),
    (['--init-image', 'i.png'], "--init-image is 'i.png'; accepted: a file"),
  ],
)
def test_refusals_are_one_line(flags, words, monkeypatch, capsys):
  monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)
  if flags and 'prompt' not in flags[0]:
    flags = ['--prompt', 'x', *flags]
  argv = ['sample', '--weights', 'base', 'sr', '--out', 'out', *flags]
  assert main.main(argv) == 2
  said = capsys.readouterr().err
  assert words in said
  assert said.count('\n') == 1


def test_an_empty_file_of_prompts_is_refused(tmp_path, capsys):
  file = tmp_path / 'prompts.txt'
  file.write_text('\n \n')
  argv = ['sample', '--weights', 'b', '--out', 'o', '--prompts', str(file)]
  assert main.main(argv) == 2
  assert 'no prompt, or an empty one' in capsys.readouterr().err


def test_from_weights_to_files(exports, tiny_encoder, tmp_path, capsys):
  out = tmp_path / 'out'
  argv = ['sample', '--weights', exports['base'], '--out', str(out)]
  argv += ['--prompt', 'a red circle', '--guidance-weight', '1', '3']
  assert main.main([*argv, '--batch-size', '8']) == 0
  said = capsys.readouterr()
  assert said.out == f'2 pictures, samples.jsonl and grid.png in {out}\n'
  lines = (out / 'samples.jsonl').read_text().splitlines()
  assert [json.loads(line)['guidance_weight'] for line in lines] == [[1], [3]]


def test_a_folder_without_weights_is_refused(tmp_path, capsys):
  argv = ['sample', '--weights', str(tmp_path), '--out', str(tmp_path / 'o')]
  assert main.main([*argv, '--prompt', 'x']) == 2
  assert 'has no manifest.json; accepted: a folder' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
