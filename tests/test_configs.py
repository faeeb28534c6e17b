"""The runs of `configs/`: all build, and their sizes are the paper's."""

import dataclasses
import functools
import operator
import pathlib
import re
import runpy

import pytest

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import describe

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'


def load(name):
  """By path: `base64.py` has the name of a module of Python's."""
  file, _, row = name.partition(':')
  return config.load(f'{CONFIGS / file}.py' + (row and f':{row}'))


@functools.cache
def sizes(name):
  """Numbers in each parameter, by its path."""
  return describe.parameters(load(name))


def num_params(name):
  return sum(sizes(name).values())


def trunk(name):
  """Parameters that are not text's."""
  return sum(n for path, n in sizes(name).items() if 'text' not in str(path))


def names():
  """Every file, and every row of each."""
  for path in sorted(CONFIGS.glob('*.py')):
    yield path.stem
    rows = runpy.run_path(path).get('ROWS', ())
    yield from (f'{path.stem}:{row}' for row in rows)


@pytest.mark.parametrize('name', list(names()))
def test_builds_and_returns_from_json(name):
  run = load(name)
  assert config.from_json(config.to_json(run)) == run
  assert run.data.tasks


# A change of a number here changes every checkpoint: say why in the commit.
@pytest.mark.parametrize(
  'name, count',
  [
    ('base64', 2_408_218_627),
    ('sr256', 527_016_323),
    ('sr1024', 518_619_523),
    ('base64:1b', 1_185_982_819),
    ('base64:500m', 678_934_531),
    ('base64:300m', 410_760_707),
    ('sr256:five_level', 960_273_795),
    ('sr1024:five_level', 943_480_195),
  ],
)
def test_parameter_counts(name, count):
  """The paper says 2B, 600M and 400M, and prints the configs that these are.

  Counted from those, by others: the base 2.10B without text and 2.26 to 2.39B
  with, by the width of the text's projections; both super-resolution nets 500
  to 550M. Of the base's 2.41B, 2.098B are not text's, 281M are the attention's
  keys and values of tokens, 29M the pooling.
  """
  assert num_params(name) == count


# The sizes of the paper's comparison, whose configs it does not print.
@pytest.mark.parametrize(
  'row, paper, count',
  [
    ('2b', 2.10e9, 2_097_572_867),
    ('1b', 1.0e9, 975_090_275),
    ('500m', 525e6, 524_563_971),
    ('300m', 295e6, 295_131_267),
  ],
)
def test_the_base_without_text_is_the_papers(row, paper, count):
  """The trunk of ADM at 512, 256 and 192 channels, as others counted it."""
  assert trunk(f'base64:{row}') == count
  assert abs(count / paper - 1) < 0.04


def test_the_trunk_at_384_channels_is_as_others_counted():
  """At 384 channels 1.18B: no round billion, so the row `1b` is another."""
  run = config.override(
    load('base64'),
    ['stage.unet.channels=[384,768,1152,1536]', 'stage.unet.embed_dim=1536'],
  )
  shapes = describe.parameters(run)
  count = sum(n for path, n in shapes.items() if 'text' not in str(path))
  assert abs(count / 1.18e9 - 1) < 0.01


# Of the printed dictionary: channels, and residual blocks of both ways.
PRINTED = [(128, 4), (256, 8), (512, 16), (1024, 16)]
# Channels on both sides of a change of size.
STEPS = [(128, 128), (128, 256), (256, 512), (512, 1024)]


def size_of(found, *words):
  """Of the parameters whose paths match, a pattern for each part of a path."""
  matches = lambda path: all(map(re.fullmatch, words, path))
  return sum(n for path, n in found.items() if matches(path))


@pytest.mark.parametrize('stage', ['sr256', 'sr1024'])
def test_the_printed_super_resolution_is_as_others_counted(stage):
  """422.5M in convolutions and norms, of which each part is counted here.

  Beside those 27.8M of FiLM with an embedding of 512, and 55.6M with one of
  1024. Others count a doubling by a convolution to as many channels as are
  asked for; ours is to four times those.
  """
  found, res = sizes(stage), r'(up|down)\d_res\d'
  blocks = size_of(found, res, 'norm_in|norm_out|conv_in|conv_out')
  assert blocks == sum(n * (18 * c * c + 6 * c) for c, n in PRINTED)
  shortcuts = size_of(found, res, 'skip')
  assert shortcuts == sum(n * (c * c + c) for c, n in PRINTED)
  down = size_of(found, r'down\d_resample')
  assert down == sum(9 * a * b + b for a, b in STEPS)
  up = size_of(found, r'up\d_resample')
  assert up == 4 * sum(9 * a * b + a for a, b in STEPS)
  ends = size_of(found, 'stem|norm_out|out')
  assert ends == 9 * 6 * 128 + 128 + 2 * 128 + 9 * 128 * 3 + 3
  counted = blocks + shortcuts + down + up // 4 + ends
  assert round(counted / 1e6, 1) == 422.6
  assert round((counted - ends) / 1e6, 1) == 422.5
  film = size_of(found, res, 'modulation')
  assert film == sum(n * (512 + 1) * 2 * c for c, n in PRINTED)
  assert round(film / 1e6, 1) == 27.8
  assert round(film / 513 * 1025 / 1e6, 1) == 55.6
  # And that is all, but for what is told of text, noise and attention.
  rest = size_of(found, r'time|aug|text_pool|(up|down)3_attn')
  whole = blocks + shortcuts + down + up + ends + film + rest
  assert whole == num_params(stage)


@pytest.mark.parametrize('stage', ['sr256', 'sr1024'])
def test_readings_of_the_super_resolution_nets(stage):
  """Shipped is what is printed; a file's first row is what it is without."""
  printed, five = (
    load(f'{stage}:{row}').stage.unet for row in ('printed', 'five_level')
  )
  assert load(stage) == load(f'{stage}:printed')
  assert printed.channels == (128, 256, 512, 1024)
  assert printed.num_res_blocks == (2, 4, 8, 8)
  assert five.channels == (*printed.channels, 1024)
  assert five.num_res_blocks == (*printed.num_res_blocks, 8)
  # 8 heads over twice the width.
  assert 2 * 1024 // printed.head_dim == 8
  assert printed.attention_expansion == 2
  attends = (False, False, False, True)
  assert printed.text_attention == attends
  assert five.text_attention == (*attends, True)


def test_the_last_stage_is_trained_on_crops_of_what_it_makes():
  """64 to 256 in training, 256 to 1024 behind the stage before it."""
  run = load('sr1024')
  stage = run.stage
  assert (stage.lowres_size, stage.image_size) == (64, 256)
  assert (stage.input_size, stage.output_size) == (256, 1024)
  assert run.data.crop == 'random'
  cascade.check_stages(
    [load(name).stage for name in ('base64', 'sr256', 'sr1024')]
  )


def test_whole_pictures_are_the_crops_network():
  """Of 1024 pixels, on bands of rows; the same parameters, so the same file."""
  crops, whole = load('sr1024'), load('sr1024:whole')
  assert whole.stage.whole_size is None
  assert (whole.stage.image_size, whole.stage.lowres_size) == (1024, 256)
  assert whole.stage.unet == dataclasses.replace(
    crops.stage.unet, remat_policy=('full',)
  )
  assert sizes('sr1024:whole') == sizes('sr1024')
  assert whole.mesh.height == 'fsdp'
  cascade.check_stages(
    [load(name).stage for name in ('base64', 'sr256', 'sr1024:whole')]
  )


def test_rows_have_the_papers_figures():
  for stage, figures in (
    ('base64', [2e9, 1e9, 500e6, 300e6]),
    ('sr256', [600e6] * 2),
    ('sr1024', [400e6] * 3),
  ):
    found = describe.rows(CONFIGS / f'{stage}.py')
    assert [paper for _, paper in found] == figures


@pytest.mark.parametrize('name', ['tiny_base:test', 'tiny_sr:test'])
def test_the_tests_nets_are_tiny(name):
  assert num_params(name) < 300_000


def test_the_cascades_fit():
  for stages in (
    ('tiny_base', 'tiny_sr'),
    ('tiny_base:full', 'tiny_sr:full64', 'tiny_sr:full128'),
    ('base64', 'sr256'),
  ):
    cascade.check_stages([load(name).stage for name in stages])


def test_the_last_stage_runs_on_whole_pictures():
  """Trained on crops, so without attention over pixels (paper, 2.5)."""
  sr256, sr1024 = (load(name).stage.unet for name in ('sr256', 'sr1024'))
  assert not any(sr1024.self_attention) and any(sr1024.text_attention)
  assert any(sr256.self_attention)


# What the paper states (appendices A and F), and our choice where it is silent
# (guidance, steps, EMA, clipping, length of text), of each stage in turn. All
# that is left out here is at the schema's default.
EVERY_STAGE = {
  'stage.unet.dropout': 0.0,
  'stage.unet.num_groups': 32,
  'stage.unet.stem_stride': 1,
  'stage.unet.coordinates': False,
  'stage.unet.text_positions': False,
  'stage.unet.residual_scale': 'sum',
  'stage.unet.long_skip': 'add',
  'stage.unet.long_skip_scale': 'sum',
  'stage.unet.dtype': 'bfloat16',
  'stage.diffusion.cosine_offset': 0.0,
  'stage.diffusion.logsnr_min': -20.0,
  'stage.diffusion.logsnr_max': 20.0,
  'stage.diffusion.zero_terminal_snr': False,
  'stage.diffusion.prediction': 'eps',
  'stage.diffusion.loss': 'eps',
  'stage.diffusion.weighting': 'plain',
  'stage.diffusion.self_condition': False,
  'stage.diffusion.text_drop': 0.1,
  'stage.diffusion.aug_schedule': 'cosine',
  'stage.diffusion.aug_max': 1.0,
  'stage.diffusion.aug_per': 'example',
  'stage.diffusion.aug_noise': 'after',
  'stage.diffusion.aug_kernel': 'bilinear',
  'stage.sample.sampler': 'ancestral',
  'stage.sample.spacing': 'time',
  'stage.sample.gamma': 0.0,
  'stage.sample.guidance': 'constant',
  'stage.sample.guidance_rescale': 0.0,
  'stage.sample.threshold': 'dynamic',
  'stage.sample.percentile': 0.995,
  'stage.sample.threshold_cap': None,
  'stage.sample.aug_level': 0.1,
  'stage.sample.aug_draw': 'once',
  'text.encoder': 't5_1_1_xxl',
  'text.max_length': 128,
  'text.embed_dim': 4096,
  'optimizer.learning_rate': 1e-4,
  'optimizer.warmup_steps': 10_000,
  'optimizer.decay': 'constant',
  'optimizer.clip_norm': 1.0,
  'optimizer.b1': 0.9,
  'optimizer.b2': 0.999,
  'optimizer.eps': 1e-8,
  'optimizer.weight_decay': 0.0,
  'optimizer.momentum': 0.0,
  'optimizer.moment_dtype': 'float32',
  'optimizer.rules': (),
  'train.batch_size': 2048,
  'train.num_steps': 2_500_000,
  'train.ema_decay': 0.9999,
}
EACH_STAGE = {
  'stage.name': ('base64', 'sr256', 'sr1024'),
  'stage.image_size': (64, 256, 256),
  'stage.lowres_size': (None, 64, 64),
  'stage.whole_size': (None, None, 1024),
  'stage.unet.design': ('base', 'efficient', 'efficient'),
  'stage.unet.channels': (
    (512, 1024, 1536, 2048),
    (128, 256, 512, 1024),
    (128, 256, 512, 1024),
  ),
  'stage.unet.num_res_blocks': ((3, 3, 3, 3), (2, 4, 8, 8), (2, 4, 8, 8)),
  'stage.unet.self_attention': (
    (False, True, True, True),
    (False, False, False, True),
    (False, False, False, False),
  ),
  'stage.unet.text_attention': (
    (False, True, True, True),
    (False, False, False, True),
    (False, False, False, True),
  ),
  'stage.unet.head_dim': (64, 256, 256),
  'stage.unet.attention_expansion': (1, 2, 2),
  'stage.unet.embed_dim': (2048, 512, 512),
  'stage.unet.shortcut': ('when_needed', 'always', 'always'),
  'stage.diffusion.schedule': ('cosine', 'cosine', 'linear'),
  'stage.sample.num_steps': (256, 128, 64),
  'stage.sample.guidance_weight': (7.5, 5.0, 4.0),
  'data.crop': ('center', 'center', 'random'),
  'optimizer.name': ('adafactor', 'adam', 'adam'),
}


@pytest.mark.parametrize('place', range(3), ids=['base64', 'sr256', 'sr1024'])
def test_the_stages_are_the_papers(place):
  run = load(EACH_STAGE['stage.name'][place])
  own = {path: values[place] for path, values in EACH_STAGE.items()}
  for path, expected in {**EVERY_STAGE, **own}.items():
    assert operator.attrgetter(path)(run) == expected, path


def test_crops_are_not_rematerialised_and_whole_pictures_are():
  """There is room: docs/performance.md has what the pods are left."""
  for name in ('base64', 'sr256', 'sr1024'):
    assert load(name).stage.unet.remat_policy == ('none',)
  assert load('sr1024:whole').stage.unet.remat_policy == ('full',)


def test_the_table_has_every_field_of_the_stages():
  """But those of options that the paper's stages do not use, and of memory."""
  unused = {
    'stage.unet': {'remat', 'remat_policy', 'scan'},
    'stage.diffusion': {
      'shift_size',
      'edm_mean',
      'edm_std',
      'sigma_data',
      'min_snr_gamma',
      'sigmoid_bias',
    },
    'stage.sample': {
      'sigma_min',
      'sigma_max',
      'rho',
      'churn',
      'churn_min',
      'churn_max',
      'churn_noise',
      'guidance_interval',
      'oscillate_after',
      'oscillate_weight',
      'strength',
      'resample',
      'resample_jump',
    },
    'optimizer': {'stacked'},
  }
  for group, left_out in unused.items():
    fields = dataclasses.fields(operator.attrgetter(group)(load('base64')))
    expected = {f'{group}.{f.name}' for f in fields if f.name not in left_out}
    assert expected <= {*EVERY_STAGE, *EACH_STAGE}
