"""What is asked of sampling, over the settings of exported stages."""

import pytest

from imagen_jax import export
from imagen_jax import sampling_settings

# Of a picture to start from, of one with a mask, and of none.
PICTURE = {
  None: {},
  'image': {'image': 'image.png'},
  'mask': {'image': 'image.png', 'mask': 'mask.png'},
}


@pytest.fixture(scope='module')
def stages(exports):
  return [export.load_weights(exports[row]) for row in ('base', 'sr')]


def samples(stages, **options):
  """The stages' `SampleConfig`s, with what is asked for."""
  return [s.stage.sample for s in sampling_settings.apply(stages, **options)]


@pytest.mark.parametrize(
  'options, expected',
  [
    ({}, [('ddim', 2, 'time')] * 2),
    (
      {'preset': 'reference'},
      [('ancestral', 256, 'time'), ('ancestral', 128, 'time')],
    ),
    (
      {'preset': 'reference', 'steps': [5, 6], 'sampler': 'heun'},
      [('heun', 5, 'karras'), ('heun', 6, 'karras')],
    ),
    ({'sampler': 'heun'}, [('heun', 2, 'karras')] * 2),
    (
      {'sampler': 'heun', 'settings': ['tiny32.spacing=logsnr']},
      [('heun', 2, 'karras'), ('heun', 2, 'logsnr')],
    ),
    (
      {'preset': 'reference', 'settings': ['num_steps=9', 'spacing=karras']},
      [('ancestral', 9, 'karras')] * 2,
    ),
    (
      {'settings': ['num_steps=9', 'tiny32.num_steps=7'], 'steps': None},
      [('ddim', 9, 'time'), ('ddim', 7, 'time')],
    ),
  ],
)
def test_presets_settings_and_flags_in_this_order(options, expected, stages):
  found = samples(stages, **options)
  assert [(s.sampler, s.num_steps, s.spacing) for s in found] == expected


@pytest.mark.parametrize(
  'which, options, expected',
  [
    ('image', {}, [(0.6, 1)] * 2),
    ('image', {'settings': ['strength=0.3']}, [(0.3, 1)] * 2),
    ('image', {'settings': ['tiny32.strength=1']}, [(0.6, 1), (1, 1)]),
    (
      'image',
      {'settings': ['strength=0.3'], 'strength': [0.7, 0.8]},
      [(0.7, 1), (0.8, 1)],
    ),
    ('mask', {}, [(1, 1)] * 2),
    ('mask', {'settings': ['resample=8', 'strength=0.5']}, [(0.5, 8)] * 2),
    ('mask', {'settings': ['resample=8'], 'resample': 2}, [(1, 2)] * 2),
  ],
)
def test_settings_of_a_picture_to_start_from(which, options, expected, stages):
  found = samples(stages, **PICTURE[which], **options)
  assert [(s.strength, s.resample) for s in found] == expected


@pytest.mark.parametrize(
  'which, setting, words',
  [
    (None, 'strength=0.5', '--set strength is 0.5 without --init-image; acc'),
    ('image', 'resample=4', '--set resample is 4 without --mask; accepted'),
    ('image', 'tiny32.resample_jump=2', '--set resample_jump is 2 without --m'),
    ('image', 'strength=1', 'strength is 1 of every stage without --mask: no'),
  ],
)
def test_settings_that_could_not_tell_are_refused(
  which, setting, words, stages
):
  with pytest.raises(ValueError, match=words):
    samples(stages, settings=[setting], **PICTURE[which])


@pytest.mark.parametrize(
  'setting, words',
  [
    ('spacing', "--set is 'spacing'; accepted: FIELD=VALUE, or STAGE.FIELD"),
    ('big.rho=1', "--set is 'big.rho=1'; .* STAGE of tiny16, tiny32"),
    ('spacings=x', 'spacings: no such field; did you mean .*spacing?'),
    ('spacing=even', "stage.sample.spacing is 'even'; accepted: 'time'"),
    (
      'sampler=heun',
      "spacing is 'time' with .*sampler 'heun'; accepted: 'karras', 'logsnr'",
    ),
    ('rho=many', '--set stage.sample.rho=many: accepted: float'),
  ],
)
def test_settings_that_are_none_are_refused(setting, words, stages):
  with pytest.raises(ValueError, match=words):
    samples(stages, settings=[setting])
