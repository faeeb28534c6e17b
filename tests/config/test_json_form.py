"""A config as JSON, and back."""

import json

from example_config import example
import pytest

from imagen_jax import config as config_lib


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


def test_to_json_is_plain_json():
  tree = json.loads(config_lib.to_json(example()))
  assert tree['stage']['unet']['channels'] == [64, 128]
  assert tree['stage']['lowres_size'] is None
