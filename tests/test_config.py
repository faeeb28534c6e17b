"""The schema: refusals, overrides, JSON and differences."""

import dataclasses
import fnmatch
import json

import pytest

from imagen_jax import config as config_lib

SMALL = config_lib.UNetConfig(
  channels=(64, 128),
  num_res_blocks=(1, 1),
  self_attention=(False, True),
  text_attention=(False, True),
)
TASKS = (
  config_lib.TaskConfig('openmoji', 'a/openmoji'),
  config_lib.TaskConfig('shapes', 'a/shapes', rate=2.0),
)


def example():
  return config_lib.Config(
    stage=config_lib.StageConfig('tiny', 32, None, SMALL),
    data=config_lib.DataConfig(tasks=TASKS),
    train=config_lib.TrainConfig(num_samples=9),
  )


@pytest.mark.parametrize(
  'cls, values, words',
  [
    ('UNetConfig', {'design': 'vit'}, "design is 'vit'; accepted: 'base'"),
    ('UNetConfig', {'dtype': 'float16'}, "dtype is 'float16'"),
    ('UNetConfig', {'channels': ()}, 'number of stage.unet.channels is 0'),
    (
      'UNetConfig',
      {'num_res_blocks': (1,)},
      'num_res_blocks has 1 entries, stage.unet.channels has 4',
    ),
    (
      'UNetConfig',
      {'self_attention': (True,)},
      'self_attention has 1 entries',
    ),
    (
      'UNetConfig',
      {'text_attention': (True,) * 5},
      'text_attention has 5 entries',
    ),
    (
      'UNetConfig',
      {'num_res_blocks': (3, 3, 3, 0)},
      r'num_res_blocks\[3\] is 0; accepted: 1 or more',
    ),
    (
      'UNetConfig',
      {'channels': (512, 1024, 1536, -2048)},
      r'channels\[3\] is -2048; accepted: 1 or more',
    ),
    ('UNetConfig', {'num_groups': 0}, 'num_groups is 0'),
    ('UNetConfig', {'head_dim': 0}, 'head_dim is 0'),
    ('UNetConfig', {'embed_dim': 0}, 'embed_dim is 0'),
    ('UNetConfig', {'attention_expansion': 0}, 'attention_expansion is 0'),
    ('UNetConfig', {'stem_stride': 3}, 'stem_stride is 3; accepted: 1, 2'),
    ('UNetConfig', {'dropout': 1.0}, r'dropout is 1.0; accepted: \[0, 1\)'),
    (
      'UNetConfig',
      {'num_groups': 48},
      r'channels\[0\] is 512; accepted: multiples of .*\(48\)',
    ),
    (
      'UNetConfig',
      {'head_dim': 96},
      r'channels\[1\] x attention_expansion is 1024; .*head_dim \(96\)',
    ),
    (
      'UNetConfig',
      {'remat_policy': ('full', 'dots')},
      r'remat_policy has 2 entries, .* has 4; accepted: one entry a level, or',
    ),
    (
      'UNetConfig',
      {'remat_policy': ('dots',)},
      "remat_policy is 'dots'; accepted: 'none', 'full', 'products'",
    ),
    (
      'UNetConfig',
      {'scan': (True,) * 3},
      'scan has 3 entries, .* has 4; accepted: one entry a level, or one for',
    ),
    (
      'UNetConfig',
      {'scan': (True,), 'dropout': 0.1},
      r'scan is \(True,\) with .*dropout 0.1; accepted: scan without dropout',
    ),
    ('DiffusionConfig', {'schedule': 'x'}, "diffusion.schedule is 'x'"),
    ('DiffusionConfig', {'aug_schedule': 'x'}, "aug_schedule is 'x'"),
    ('DiffusionConfig', {'prediction': 'w'}, "prediction is 'w'"),
    ('DiffusionConfig', {'loss': 'l1'}, "diffusion.loss is 'l1'"),
    (
      'DiffusionConfig',
      {'logsnr_min': 20.0},
      r'logsnr_min is 20.0; accepted: less than logsnr_max \(20.0\)',
    ),
    ('DiffusionConfig', {'text_drop': 1.5}, 'text_drop is 1.5'),
    ('DiffusionConfig', {'aug_max': -0.1}, 'aug_max is -0.1'),
    ('SampleConfig', {'sampler': 'ddpm'}, "sampler is 'ddpm'"),
    ('SampleConfig', {'threshold': 'off'}, "threshold is 'off'"),
    ('SampleConfig', {'num_steps': 0}, 'num_steps is 0'),
    ('SampleConfig', {'guidance_weight': -1}, 'guidance_weight is -1'),
    ('SampleConfig', {'gamma': 2}, 'gamma is 2'),
    ('SampleConfig', {'percentile': 2}, 'percentile is 2'),
    ('SampleConfig', {'percentile': 0}, 'percentile is 0'),
    ('SampleConfig', {'aug_level': 2}, 'aug_level is 2'),
    (
      'OptimizerConfig',
      {'learning_rate': float('inf')},
      'learning_rate is inf; accepted: a finite',
    ),
    ('OptimizerConfig', {'b1': 2.0}, r'b1 is 2.0; accepted: \[0, 1\)'),
    ('OptimizerConfig', {'b2': 1.0}, r'b2 is 1.0; accepted: \[0, 1\)'),
    ('OptimizerConfig', {'eps': -1.0}, r'eps is -1.0; accepted: \(0, 1\)'),
    ('TrainConfig', {'seed': -1}, 'train.seed is -1'),
    ('DiffusionConfig', {'weighting': 'p2'}, "weighting is 'p2'; accepted"),
    ('DiffusionConfig', {'shift_size': 0}, 'shift_size is 0; accepted: 1'),
    ('DiffusionConfig', {'edm_std': 0.0}, 'edm_std is 0.0; .* above 0'),
    ('DiffusionConfig', {'sigma_data': -1.0}, 'sigma_data is -1.0'),
    ('DiffusionConfig', {'min_snr_gamma': 0.0}, 'min_snr_gamma is 0.0'),
    (
      'DiffusionConfig',
      {'zero_terminal_snr': True},
      "prediction is 'eps' with zero_terminal_snr; accepted: 'x', 'v', 'edm'",
    ),
    ('DiffusionConfig', {'edm_mean': float('inf')}, 'edm_mean is inf; acc'),
    ('DiffusionConfig', {'sigmoid_bias': float('nan')}, 'bias is nan; accep'),
    (
      'DiffusionConfig',
      {'logsnr_min': -2000.0},
      r'logsnr_min is -2000.0; accepted: \[-80, 80\]',
    ),
    ('DiffusionConfig', {'logsnr_max': float('nan')}, 'logsnr_max is nan'),
    ('SampleConfig', {'guidance_weight': float('inf')}, 'weight is inf; acc'),
    (
      'SampleConfig',
      {'sampler': 'heun', 'spacing': 'karras', 'churn': float('inf')},
      'churn is inf; accepted: finite',
    ),
    (
      'SampleConfig',
      {'sampler': 'ddim', 'gamma': 0.5},
      "gamma is 0.5 with .*sampler 'ddim'; accepted: 0, or .* ancestral",
    ),
    (
      'SampleConfig',
      {'guidance': 'oscillating', 'num_steps': 15},
      'oscillate_after is 15 with .*num_steps 15; accepted: fewer than these',
    ),
    (
      'SampleConfig',
      {'threshold': 'static', 'threshold_cap': 1.5},
      "threshold_cap is 1.5 with .*threshold 'static'; accepted: none, or",
    ),
    ('SampleConfig', {'spacing': 'even'}, "spacing is 'even'; accepted: 'ti"),
    (
      'SampleConfig',
      {'sampler': 'heun'},
      "spacing is 'time' with .*sampler 'heun'; accepted: 'karras', 'logsnr'",
    ),
    (
      'SampleConfig',
      {'aug_draw': 'twice'},
      "aug_draw is 'twice'; accepted: 'once', 'every'",
    ),
    ('DiffusionConfig', {'aug_per': 'run'}, "aug_per is 'run'; accepted: 'ex"),
    ('DiffusionConfig', {'aug_noise': 'no'}, "aug_noise is 'no'; accepted: 'a"),
    ('DiffusionConfig', {'aug_kernel': 'lanczos'}, "aug_kernel is 'lanczos'"),
    (
      'DiffusionConfig',
      {'cosine_offset': 1.0},
      r'cosine_offset is 1.0; accepted: \[0, 1\)',
    ),
    (
      'DiffusionConfig',
      {'cosine_offset': 0.008, 'schedule': 'linear'},
      "offset is 0.008 with .*schedule 'linear'; accepted: 0, or stage.diff",
    ),
    (
      'DiffusionConfig',
      {'prediction': 'x'},
      "loss is 'eps' with stage.diffusion.prediction 'x', .*; accepted: 'x', ",
    ),
    (
      'DiffusionConfig',
      {'loss': 'v'},
      "loss is 'v' with stage.diffusion.prediction 'eps', .*; accepted: 'eps'",
    ),
    (
      'DiffusionConfig',
      {'weighting': 'truncated_snr'},
      "weighting is 'truncated_snr' with .*prediction 'eps', .*; accepted: 'pl",
    ),
    ('SampleConfig', {'guidance': 'cfg'}, "guidance is 'cfg'; accepted: 'con"),
    ('SampleConfig', {'resample': 0}, 'resample is 0; accepted: 1 or more'),
    ('SampleConfig', {'resample_jump': 0}, 'resample_jump is 0; accepted: 1'),
    ('SampleConfig', {'oscillate_after': -1}, 'oscillate_after is -1'),
    ('SampleConfig', {'oscillate_weight': -1.0}, 'oscillate_weight is -1.0'),
    ('SampleConfig', {'churn': -1.0}, 'churn is -1.0; accepted: 0 or more'),
    (
      'SampleConfig',
      {'churn': 5.0},
      "churn is 5.0 with stage.sample.sampler 'ancestral'; accepted: 0, or",
    ),
    ('SampleConfig', {'churn_min': 60.0}, 'churn_min is 60.0; .*max .50.0'),
    ('SampleConfig', {'churn_min': -1.0}, 'churn_min is -1.0'),
    ('SampleConfig', {'churn_noise': 0.0}, 'churn_noise is 0.0'),
    ('SampleConfig', {'sigma_min': 90.0}, 'sigma_min is 90.0; .*max .80.0'),
    ('SampleConfig', {'sigma_min': 0.0}, 'sigma_min is 0.0; .* above 0'),
    ('SampleConfig', {'sigma_max': float('inf')}, 'sigma_max is inf'),
    ('SampleConfig', {'rho': 0.0}, 'rho is 0.0; accepted: numbers above 0'),
    ('SampleConfig', {'strength': 0.0}, 'strength is 0.0'),
    ('SampleConfig', {'strength': 1.5}, r'strength is 1.5; accepted: \[0, 1'),
    ('SampleConfig', {'guidance_rescale': 2.0}, 'guidance_rescale is 2.0'),
    (
      'SampleConfig',
      {'guidance_interval': (3.0, -3.0)},
      r'guidance_interval is \[3.0, -3.0\]; accepted: the least and the gr',
    ),
    ('SampleConfig', {'guidance_interval': (1.0,)}, 'guidance_interval is'),
    ('SampleConfig', {'threshold_cap': 0.5}, 'threshold_cap is 0.5; accepted'),
    ('StageConfig', {'image_size': 2}, 'image_size is 2; accepted: 4'),
    (
      'StageConfig',
      {'image_size': 60},
      'image_size is 60; accepted: multiples of 8',
    ),
    ('StageConfig', {'lowres_size': 64}, 'lowres_size is 64; accepted'),
    ('StageConfig', {'lowres_size': 48}, r'divisor of .*\(64\), or none'),
    ('TextConfig', {'max_length': 0}, 'text.max_length is 0'),
    ('TextConfig', {'embed_dim': 0}, 'text.embed_dim is 0'),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'rate': 0},
      r'data.tasks\[a\].rate is 0; accepted: numbers above 0',
    ),
    ('DataConfig', {'crop': 'left'}, "data.crop is 'left'"),
    (
      'DataConfig',
      {'tasks': (TASKS[0], TASKS[0])},
      'a name of its own for each',
    ),
    ('OptimizerConfig', {'name': 'sgd'}, "optimizer.name is 'sgd'"),
    ('OptimizerConfig', {'decay': 'step'}, "optimizer.decay is 'step'"),
    ('OptimizerConfig', {'learning_rate': -1}, 'learning_rate is -1'),
    (
      'OptimizerConfig',
      {'learning_rate': float('nan')},
      'learning_rate is nan',
    ),
    ('OptimizerConfig', {'warmup_steps': -1}, 'warmup_steps is -1'),
    ('OptimizerConfig', {'clip_norm': -1}, 'clip_norm is -1'),
    (
      'OptimizerConfig',
      {'name': 'adam', 'weight_decay': -1},
      'weight_decay is -1; accepted: 0 or more',
    ),
    (
      'OptimizerConfig',
      {'weight_decay': 0.1},
      "weight_decay is 0.1 with optimizer.name 'adafactor'",
    ),
    ('MeshConfig', {'data': 0}, r'is \(0, 1, 1\); accepted: positive'),
    ('MeshConfig', {'fsdp': -1}, 'at most one of them -1'),
    ('MeshConfig', {'simulated_devices': -1}, 'simulated_devices is -1'),
    ('TrainConfig', {'batch_size': 0}, 'train.batch_size is 0'),
    ('TrainConfig', {'num_steps': 0}, 'train.num_steps is 0'),
    ('TrainConfig', {'log_every': 0}, 'train.log_every is 0'),
    ('TrainConfig', {'checkpoint_every': 0}, 'checkpoint_every is 0'),
    ('TrainConfig', {'keep_checkpoints': 0}, 'keep_checkpoints is 0'),
    ('TrainConfig', {'sample_every': -1}, 'sample_every is -1'),
    ('TrainConfig', {'num_samples': 0}, 'num_samples is 0'),
    ('TrainConfig', {'ema_decay': 1.0}, r'ema_decay is 1.0; .*\[0, 1\)'),
  ],
)
def test_refuses(cls, values, words):
  with pytest.raises(ValueError, match=words) as refusal:
    getattr(config_lib, cls)(**values)
  assert '\n' not in str(refusal.value)


CONVOLUTIONS = config_lib.UNetConfig(
  channels=(32, 32, 32),
  num_res_blocks=(1, 1, 1),
  self_attention=(False, False, False),
  text_attention=(False, False, True),
  head_dim=8,
)
ATTENTION = dataclasses.replace(
  CONVOLUTIONS, self_attention=(False, False, True)
)
COORDINATES = dataclasses.replace(CONVOLUTIONS, coordinates=True)


def trained_on_crops(**changes):
  fields = {'image_size': 24, 'lowres_size': 8, 'whole_size': 60}
  fields |= {'unet': CONVOLUTIONS, **changes}
  return config_lib.StageConfig(**fields)


@pytest.mark.parametrize(
  'diffusion, words',
  [
    (
      {'aug_max': 0.05},
      r'aug_level is 0.1, which is not trained; .*diffusion.aug_max \(0.05\)',
    ),
    (
      {'text_drop': 0.0},
      'stage.sample.guidance_weight is 7.5 with stage.diffusion.text_drop 0, ',
    ),
  ],
)
def test_what_is_not_trained_is_not_sampled(diffusion, words):
  diffusion = config_lib.DiffusionConfig(**diffusion)
  with pytest.raises(ValueError, match=words):
    trained_on_crops(diffusion=diffusion)
  # There is a level of noise where there is a low-res image alone.
  sample = config_lib.SampleConfig(guidance_weight=1.0)
  config_lib.StageConfig(diffusion=diffusion, sample=sample)


def test_sizes_of_what_a_stage_takes_and_makes():
  stage = trained_on_crops()
  assert (stage.input_size, stage.output_size) == (20, 60)
  stage = trained_on_crops(whole_size=None)
  assert (stage.input_size, stage.output_size) == (8, 24)
  stage = trained_on_crops(whole_size=None, lowres_size=None)
  assert (stage.input_size, stage.output_size) == (None, 24)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'lowres_size': None}, 'whole_size is 60 without stage.lowres_size; acc'),
    # A third of it is the low-res input, a fourth the coarsest level.
    ({'whole_size': 56}, 'whole_size is 56; accepted: multiples of 12, by wh'),
    ({'whole_size': 63}, 'whole_size is 63; accepted: multiples of 12'),
    (
      {'whole_size': 24},
      r'whole_size is 24; .*, above .*image_size \(24\); or',
    ),
    ({'whole_size': -48}, 'whole_size is -48; accepted: multiples of 12'),
    (
      {'unet': ATTENTION},
      r'self_attention is \[False, False, True\] with stage.whole_size 60; acc',
    ),
    ({'unet': COORDINATES}, 'coordinates is true with stage.whole_size 60; a'),
  ],
)
def test_refuses_crops_of_a_network_that_is_not_for_them(changes, words):
  with pytest.raises(ValueError, match=words) as refusal:
    trained_on_crops(**changes)
  assert '\n' not in str(refusal.value)


def test_a_config_cannot_be_changed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    example().train.seed = 1


@pytest.mark.parametrize(
  'design, stride, factor',
  [('base', 1, 8), ('efficient', 1, 16), ('efficient', 2, 32)],
)
def test_downsampling(design, stride, factor):
  unet = config_lib.UNetConfig(design=design, stem_stride=stride)
  assert unet.downsampling == factor


@pytest.mark.parametrize(
  'assignment, path, value',
  [
    ('train.seed=7', 'train.seed', 7),
    ('train.ema_decay=0', 'train.ema_decay', 0.0),
    ('optimizer.learning_rate=3e-4', 'optimizer.learning_rate', 3e-4),
    ('stage.unet.remat=false', 'stage.unet.remat', False),
    ('stage.unet.remat=False', 'stage.unet.remat', False),
    ('stage.lowres_size=16', 'stage.lowres_size', 16),
    ('stage.name=12', 'stage.name', '12'),
    ('text.store=gs://b/x=y', 'text.store', 'gs://b/x=y'),
    ('stage.unet.channels=[32,64]', 'stage.unet.channels', (32, 64)),
    ('data.tasks=[]', 'data.tasks', ()),
    (
      'data.tasks=[{"name": "n", "path": "p", "rate": 3}]',
      'data.tasks',
      (config_lib.TaskConfig('n', 'p', 3.0),),
    ),
  ],
)
def test_override_sets_one_field(assignment, path, value):
  changed = config_lib.override(example(), [assignment])
  found = changed
  for name in path.split('.'):
    found = getattr(found, name)
  assert found == value
  assert type(found) is type(value)
  # And nothing else.
  old, new = (dataclasses.asdict(each) for each in (example(), changed))
  for name in path.split('.')[:-1]:
    assert {k for k in new if new[k] != old[k]} <= {name}
    old, new = old[name], new[name]
  assert {k for k in new if new[k] != old[k]} == {path.split('.')[-1]}


def test_override_sets_none():
  stage = dataclasses.replace(example().stage, lowres_size=16)
  old = dataclasses.replace(example(), stage=stage)
  new = config_lib.override(old, ['stage.lowres_size=none'])
  assert new.stage.lowres_size is None


def test_override_sets_the_empty_string():
  text = dataclasses.replace(example().text, store='s')
  old = dataclasses.replace(example(), text=text)
  assert not config_lib.override(old, ['text.store=']).text.store


def test_override_names_a_task():
  new = config_lib.override(
    example(), ['data.tasks.shapes.rate=5', 'data.tasks.openmoji.path=/x']
  )
  assert [task.rate for task in new.data.tasks] == [1.0, 5.0]
  assert [task.path for task in new.data.tasks] == ['/x', 'a/shapes']


def test_override_checks_once_all_are_applied():
  one = 'stage.unet.channels=[32,64,96]'
  with pytest.raises(ValueError, match='num_res_blocks has 2 entries'):
    config_lib.override(example(), [one])
  rest = [
    f'stage.unet.{name}=[{value},{value},{value}]'
    for name, value in (
      ('num_res_blocks', 1),
      ('self_attention', 'false'),
      ('text_attention', 'false'),
    )
  ]
  assert config_lib.override(example(), [one, *rest]) == config_lib.override(
    example(), [*rest, one]
  )


def test_override_of_nothing_is_the_same():
  assert config_lib.override(example(), []) == example()


@pytest.mark.parametrize(
  'assignment, words',
  [
    ('train.seed', '\'train.seed\' has no "="; accepted: a.b=value'),
    ('train.sed=1', 'train.sed: no such field; did you mean train.seed'),
    ('trian.seed=1', 'trian: no such field; did you mean train?'),
    ('train.learning_rate=1', r'did you mean optimizer.learning_rate\?'),
    ('seed=1', r'seed: no such field; did you mean train.seed\?'),
    ('train.zzz=1', 'train.zzz: no such field; accepted: train.batch_size, '),
    ('stage.unet.chanels=1', 'did you mean stage.unet.channels?'),
    ('zzz=1', 'no such field; accepted: stage, text, data, optimizer'),
    ('mesh.zzz=1', 'accepted: mesh.data, mesh.fsdp, mesh.model'),
    ('train=1', 'train is a group; accepted: one of batch_size, num_steps'),
    ('train.seed.x=1', 'train.seed has no fields of its own'),
    ('stage.unet.channels.0=1', 'has no fields of its own'),
    ('train.seed=x', 'train.seed=x: accepted: int'),
    ('train.seed=1.5', 'accepted: int'),
    ('train.seed=true', 'accepted: int'),
    ('train.seed=none', 'accepted: int'),
    ('train.ema_decay=high', 'accepted: float'),
    ('train.ema_decay=true', 'accepted: float'),
    ('stage.unet.remat=1', 'accepted: bool'),
    ('stage.unet.channels=64', r'accepted: tuple\[int, \.\.\.\]'),
    ('stage.unet.channels=["a"]', r'accepted: tuple\[int, \.\.\.\]'),
    ('stage.lowres_size=x', 'accepted: int | None'),
    ('data.tasks.shape.rate=1', 'shape: no such task; did you mean data'),
    ('data.tasks.zzz.rate=1', 'accepted: data.tasks.openmoji, data.tasks'),
    ('data.tasks.shapes=1', 'data.tasks.shapes is a group; name its field'),
    ('data.tasks.shapes.rat=1', 'did you mean data.tasks.shapes.rate?'),
    ('data.tasks.shapes.rate=0', r'data.tasks\[shapes\].rate is 0'),
    ('data.tasks.shapes.rate=Infinity', r'shapes\].rate is inf; accepted'),
    ('data.tasks=[{"name": "n"}]', 'data.tasks=.*: accepted: tuple'),
    ('data.tasks=[["name"]]', 'data.tasks=.*: accepted: tuple'),
    ('train.batch_size=0', 'train.batch_size is 0; accepted: 1 or more'),
  ],
)
def test_override_refuses(assignment, words):
  with pytest.raises(ValueError, match=words) as refusal:
    config_lib.override(example(), [assignment])
  assert '\n' not in str(refusal.value)


def test_override_refuses_a_field_and_its_parts():
  with pytest.raises(ValueError, match='train.seed also sets a part of itself'):
    config_lib.override(example(), ['train=1', 'train.seed=2'])


def test_json_round_trip():
  text = config_lib.to_json(example())
  assert config_lib.from_json(text) == example()
  assert config_lib.from_json(text) != config_lib.Config()
  stage = config_lib.to_json(example().stage)
  assert config_lib.from_json(stage, config_lib.StageConfig) == example().stage


def test_json_of_less_takes_the_defaults():
  assert config_lib.from_json('{}') == config_lib.Config()


@pytest.mark.parametrize(
  'text, words',
  [
    ('{"train": {"sed": 1}}', r"TrainConfig has no fields \['sed'\]"),
    ('{"train": {"seed": "x"}}', "not a Config: train: seed is 'x'"),
    ('{"train": 3}', 'not a Config: train: 3 in place of its fields'),
    ('[]', r'not a Config: \[\] in place of its fields'),
    ('{"train": {"seed": 1}', 'Expecting'),
    ('{"train": {"batch_size": 0}}', 'train.batch_size is 0'),
    ('{"data": {"tasks": [{"name": "n"}]}}', "argument: 'path'"),
  ],
)
def test_json_of_another_schema_is_refused(text, words):
  with pytest.raises(ValueError, match=words):
    config_lib.from_json(text)


def test_differences_are_those_that_change_results():
  old = example()
  new = config_lib.override(
    old, ['train.seed=3', 'stage.unet.dropout=0.1', 'train.log_every=7']
  )
  assert config_lib.differences(old, old) == []
  assert config_lib.differences(old, new) == [
    'stage.unet.dropout: 0.0 -> 0.1',
    'train.seed: 0 -> 3',
  ]


def test_differences_of_tasks_are_named_and_their_places_are_none():
  old = example()
  moved = ['data.tasks.shapes.path=/new', 'data.tasks.openmoji.path=gs://new']
  assert config_lib.differences(old, config_lib.override(old, moved)) == []
  changed = [*moved, 'data.tasks.shapes.rate=3', 'data.tasks.shapes.split=all']
  assert config_lib.differences(old, config_lib.override(old, changed)) == [
    'data.tasks.shapes.rate: 2.0 -> 3.0',
    "data.tasks.shapes.split: 'train' -> 'all'",
  ]


def test_differences_tell_other_tasks_and_another_order():
  old = example()
  tasks = old.data.tasks[::-1]
  turned = dataclasses.replace(
    old, data=dataclasses.replace(old.data, tasks=tasks)
  )
  names = [task.name for task in old.data.tasks]
  order = f'data.tasks: {names} -> {names[::-1]}'
  assert config_lib.differences(old, turned) == [order]
  less = dataclasses.replace(
    old, data=dataclasses.replace(old.data, tasks=tasks[:1])
  )
  found = config_lib.differences(old, less)
  assert found[0] == f'data.tasks: {names} -> {names[-1:]}'
  assert all(f'data.tasks.{names[0]}.' in line for line in found[1:])


def test_runtime_fields_exist():
  # As `differences` names them: a task's fields go by the task's name.
  fields = dataclasses.asdict(example())
  paths = [f'{group}.{name}' for group in fields for name in fields[group]]
  for group, inside in fields['stage'].items():
    if isinstance(inside, dict):
      paths += [f'stage.{group}.{name}' for name in inside]
  for task in fields['data']['tasks']:
    paths += [f'data.tasks.{task["name"]}.{name}' for name in task]
  for field in config_lib.RUNTIME_FIELDS:
    assert fnmatch.filter(paths, field), field


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / 'run.py'
  path.write_text("""
from imagen_jax import config
ROWS = {'small': 1, 'large': 2}
def get_config(row='small'):
  return config.Config(train=config.TrainConfig(seed=ROWS[row]))
""")
  return path


def test_load_takes_a_file_and_a_row(config_file):
  assert config_lib.load(str(config_file)).train.seed == 1
  assert config_lib.load(f'{config_file}:large').train.seed == 2


@pytest.mark.parametrize(
  'spec, words',
  [
    ('{}:huge', "has no row 'huge'; accepted: small, large"),
    ('no/such.py', "--config is 'no/such.py'; accepted: a file such as"),
    ('run.txt', "--config is 'run.txt'"),
  ],
)
def test_load_refuses(config_file, spec, words):
  with pytest.raises(ValueError, match=words):
    config_lib.load(spec.format(config_file))


def test_load_refuses_a_row_of_a_file_without_rows(tmp_path):
  path = tmp_path / 'run.py'
  path.write_text('def get_config(): pass')
  with pytest.raises(ValueError, match="no row 'a'; accepted: none"):
    config_lib.load(f'{path}:a')


def test_load_refuses_a_file_without_get_config(tmp_path):
  path = tmp_path / 'run.py'
  path.write_text('config = 1')
  with pytest.raises(ValueError, match='run.py has no get_config; accepted:'):
    config_lib.load(str(path))


@pytest.mark.parametrize(
  'line, words',
  [
    ('x = (', r'bad.py:2: SyntaxError: .* accepted: a file that Python runs'),
    ('import nothing_at_all', r'bad.py:2: ModuleNotFoundError: .*; accepted'),
    (
      'config.TrainConfig(steps=3)',
      r"bad.py:2: TypeError: .*'steps'.*accepted",
    ),
    ('config.TrainConfig(seed=-1)', r'bad.py:2: train.seed is -1; accepted: 0'),
  ],
)
def test_load_refuses_a_file_whose_code_fails(tmp_path, line, words):
  (tmp_path / 'bad.py').write_text(f'from imagen_jax import config\n{line}\n')
  with pytest.raises(ValueError, match=words):
    config_lib.load(f'{tmp_path}/bad.py')


def test_load_refuses_what_is_no_config(tmp_path):
  path = tmp_path / 'run.py'
  path.write_text('def get_config(): return {}')
  with pytest.raises(ValueError, match='returned a dict; accepted: an imagen'):
    config_lib.load(str(path))


def test_to_json_is_plain_json():
  tree = json.loads(config_lib.to_json(example()))
  assert tree['stage']['unet']['channels'] == [64, 128]
  assert tree['stage']['lowres_size'] is None
