"""What a stage takes and makes, and networks that are not for its sizes."""

import dataclasses

from example_config import example
import pytest

from imagen_jax import config as config_lib

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
