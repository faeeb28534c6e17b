"""Each group of fields refuses what cannot be, in one line."""

import math

from example_config import TASKS
import pytest

from imagen_jax import config as config_lib


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
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'kind': 'zip'},
      r"data.tasks\[a\].kind is 'zip'; accepted: 'tfds', 'arrayrecord', ",
    ),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'kind': 'parquet', 'heldout': -1},
      r'data.tasks\[a\].heldout is -1; accepted: 0 or more',
    ),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'heldout': 3},
      r"data.tasks\[a\].heldout is 3 with kind 'tfds'; accepted: 0",
    ),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'index': 'c'},
      r"data.tasks\[a\].index is 'c' with kind 'tfds'; accepted: ''",
    ),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'min_side': 0},
      r'data.tasks\[a\].min_side is 0; accepted: 1 or more',
    ),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'max_aspect': 0.5},
      r'data.tasks\[a\].max_aspect is 0.5; accepted: 1 or',
    ),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'min_caption': 0},
      r'data.tasks\[a\].min_caption is 0; accepted: 1',
    ),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'min_caption': 9, 'max_caption': 8},
      r'max_caption is 8; accepted: min_caption \(9\) to 2000',
    ),
    (
      'TaskConfig',
      {'name': 'a', 'path': 'b', 'max_caption': 2001},
      r'max_caption is 2001; accepted: min_caption \(1\) to',
    ),
    ('FilterConfig', {'field': ''}, "filters have the field ''; accepted"),
    (
      'FilterConfig',
      {'field': 'x'},
      r"of 'x' has least None, most None and accepted \[\]; accep",
    ),
    (
      'FilterConfig',
      {'field': 'x', 'most': 1.0, 'accepted': ('y',)},
      r"most 1.0 and accepted \['y'\]; accepted: either",
    ),
    ('DataConfig', {'caption_choice': 'all'}, "caption_choice is 'all'"),
    ('DataConfig', {'dct_scaling': 0.5}, 'data.dct_scaling is 0.5; accepted'),
    ('DataConfig', {'threads': 0}, 'data.threads is 0; accepted'),
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
    (
      'OptimizerConfig',
      {'momentum': 1.0},
      r'momentum is 1.0; accepted: \[0, 1',
    ),
    (
      'OptimizerConfig',
      {'name': 'adam', 'momentum': 0.9},
      "momentum is 0.9 with optimizer.name 'adam'; accepted: 0, as b1 is Adam",
    ),
    (
      'OptimizerConfig',
      {'name': 'adam', 'moment_dtype': 'int8'},
      "moment_dtype is 'int8'; accepted: 'float32', 'bfloat16'",
    ),
    (
      'OptimizerConfig',
      {'moment_dtype': 'bfloat16'},
      "moment_dtype is 'bfloat16' without a moment; accepted: float32, opt",
    ),
    (
      'OptimizerConfig',
      {'rules': (config_lib.ParameterRule('a', freeze=True),) * 2},
      r"optimizer.rules has the paths \['a', 'a'\]; accepted: each once",
    ),
    (
      'OptimizerConfig',
      {'rules': (config_lib.ParameterRule('a', weight_decay=0.1),)},
      r"rules\[a\].weight_decay is 0.1 with optimizer.name 'adafactor'",
    ),
    ('ParameterRule', {'path': '', 'freeze': True}, 'path is empty; accepted'),
    (
      'ParameterRule',
      {'path': 'a'},
      r'rules\[a\] changes nothing; accepted: a',
    ),
    (
      'ParameterRule',
      {'path': 'a', 'learning_rate': 0.0},
      r'rules\[a\].learning_rate is 0.0; accepted: numbers above 0',
    ),
    (
      'ParameterRule',
      {'path': 'a', 'weight_decay': -1.0},
      r'rules\[a\].weight_decay is -1.0; accepted: 0 or more',
    ),
    (
      'ParameterRule',
      {'path': 'a', 'weight_decay': math.inf},
      r'rules\[a\].weight_decay is inf; accepted: finite numbers',
    ),
    (
      'ParameterRule',
      {'path': 'a', 'freeze': True, 'learning_rate': 0.5},
      'has freeze with learning_rate 0.5 and weight_decay None; accepted: fre',
    ),
    (
      'TrainConfig',
      {'ema_lengths': (0.05, 0.3)},
      r'ema_lengths is \(0.05, 0.3\); accepted: different numbers above 0, to',
    ),
    (
      'TrainConfig',
      {'ema_lengths': (0.05, 0.05)},
      'accepted: different number',
    ),
    ('TrainConfig', {'ema_lengths': (0.0,)}, 'ema_lengths is .*above 0'),
    ('TrainConfig', {'ema_snapshot_every': -1}, 'ema_snapshot_every is -1'),
    (
      'TrainConfig',
      {'ema_snapshot_every': 5},
      'ema_snapshot_every is 5 with train.ema_lengths empty; accepted: 0, or',
    ),
    (
      'TrainConfig',
      {'ema_snapshot_dtype': 'float16'},
      "ema_snapshot_dtype is 'float16'; accepted: 'float32', 'bfloat16'",
    ),
    ('MeshConfig', {'data': 0}, r'is \(0, 1, 1\); accepted: positive'),
    ('MeshConfig', {'fsdp': -1}, 'at most one of them -1'),
    ('MeshConfig', {'simulated_devices': -1}, 'simulated_devices is -1'),
    ('TrainConfig', {'batch_size': 0}, 'train.batch_size is 0'),
    ('TrainConfig', {'microbatches': 0}, 'train.microbatches is 0'),
    (
      'TrainConfig',
      {'batch_size': 64, 'microbatches': 3},
      'microbatches is 3 with train.batch_size 64; accepted: what divides',
    ),
    ('TrainConfig', {'num_steps': 0}, 'train.num_steps is 0'),
    ('TrainConfig', {'log_every': 0}, 'train.log_every is 0'),
    ('TrainConfig', {'checkpoint_every': 0}, 'checkpoint_every is 0'),
    ('GuardConfig', {'policy': 'go'}, "guard.policy is 'go'; accepted: 'stop'"),
    (
      'GuardConfig',
      {'spike_factor': 0.5},
      'factor is 0.5; accepted: 0, or abo',
    ),
    ('GuardConfig', {'window': 0}, 'guard.window is 0'),
    ('GuardConfig', {'most': 0}, 'guard.most is 0'),
    ('GuardConfig', {'rewind_steps': 0}, 'guard.rewind_steps is 0'),
    ('GuardConfig', {'pass_over': (3, 0)}, 'guard.pass_over is 0'),
    ('KeepConfig', {'every_steps': -1}, 'keep.every_steps is -1'),
    ('KeepConfig', {'every_hours': -1.0}, 'keep.every_hours is -1.0'),
    ('KeepConfig', {'best': -1}, 'keep.best is -1'),
    ('KeepConfig', {'metric': ''}, "keep.metric is ''"),
    ('KeepConfig', {'mode': 'least'}, "keep.mode is 'least'; accepted: 'min'"),
    ('TrainConfig', {'keep_checkpoints': 0}, 'keep_checkpoints is 0'),
    ('TrainConfig', {'sample_every': -1}, 'sample_every is -1'),
    ('TrainConfig', {'num_samples': 0}, 'num_samples is 0'),
    ('TrainConfig', {'eval_every': -1}, 'eval_every is -1'),
    ('TrainConfig', {'num_eval_examples': 0}, 'num_eval_examples is 0'),
    ('TrainConfig', {'eval_logsnr': ()}, r'eval_logsnr is \[\]; accepted: one'),
    ('TrainConfig', {'eval_logsnr': (1, 0)}, r'is \[1, 0\]; .* ascending'),
    ('TrainConfig', {'eval_aug_level': 1.1}, r'eval_aug_level is 1.1; .*\[0,'),
    ('TrainConfig', {'ema_decay': 1.0}, r'ema_decay is 1.0; .*\[0, 1\)'),
  ],
)
def test_refuses(cls, values, words):
  with pytest.raises(ValueError, match=words) as refusal:
    getattr(config_lib, cls)(**values)
  assert '\n' not in str(refusal.value)


@pytest.mark.parametrize(
  'cls, values, reads',
  [
    ('SampleConfig', {'sigma_min': 0.01}, {'spacing': 'logsnr'}),
    ('SampleConfig', {'sigma_max': 60.0}, {'spacing': 'karras'}),
    ('SampleConfig', {'rho': 3.0}, {'spacing': 'karras'}),
    (
      'SampleConfig',
      {'guidance_interval': (0.0, 1.0)},
      {'guidance': 'interval'},
    ),
    ('SampleConfig', {'oscillate_after': 3}, {'guidance': 'oscillating'}),
    ('SampleConfig', {'oscillate_weight': 3.0}, {'guidance': 'oscillating'}),
    ('SampleConfig', {'percentile': 0.9}, {'threshold': 'dynamic'}),
    ('SampleConfig', {'resample_jump': 2}, {'resample': 2}),
    *(
      (
        'SampleConfig',
        value,
        {'sampler': 'heun', 'spacing': 'karras', 'churn': 1.0},
      )
      for value in (
        {'churn_min': 1.0},
        {'churn_max': 9.0},
        {'churn_noise': 1.0},
      )
    ),
    ('DiffusionConfig', {'shift_size': 32}, {'schedule': 'shifted_cosine'}),
    ('DiffusionConfig', {'edm_mean': -0.4}, {'schedule': 'edm'}),
    ('DiffusionConfig', {'edm_std': 1.0}, {'schedule': 'edm'}),
    (
      'DiffusionConfig',
      {'sigma_data': 1.0},
      {'prediction': 'edm', 'loss': 'x'},
    ),
    (
      'DiffusionConfig',
      {'sigma_data': 1.0},
      {'prediction': 'v', 'loss': 'edm'},
    ),
    ('DiffusionConfig', {'min_snr_gamma': 1.0}, {'weighting': 'min_snr'}),
    ('DiffusionConfig', {'sigmoid_bias': 1.0}, {'weighting': 'sigmoid'}),
  ],
)
def test_refuses_what_nothing_would_read(cls, values, reads):
  make = getattr(config_lib, cls)
  make(**values, **reads)
  (name,) = values
  asks = '|'.join(reads)
  idle = {'threshold': 'static'} if 'threshold' in reads else {}
  words = f'{name} is .*, which nothing reads; accepted: .*, or .*({asks}) '
  with pytest.raises(ValueError, match=words) as refusal:
    make(**values, **idle)
  assert '\n' not in str(refusal.value)
