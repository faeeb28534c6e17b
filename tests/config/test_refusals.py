"""Each group of fields of a stage refuses what cannot be, in one line."""

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
  ],
)
def test_refuses(cls, values, words):
  with pytest.raises(ValueError, match=words) as refusal:
    getattr(config_lib, cls)(**values)
  assert '\n' not in str(refusal.value)
