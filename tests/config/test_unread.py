"""A field that another makes idle is refused, not ignored."""

import pytest

from imagen_jax import config as config_lib


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
