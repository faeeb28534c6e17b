"""A config of small sizes, for the tests of the schema."""

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
