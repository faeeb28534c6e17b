"""What a run says that has nothing left to train, as one started once more."""

import json

from imagen_jax import config as config_lib
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import start as start_lib


def say_end(
  config: config_lib.Config,
  workdir: str,
  start: start_lib.Start,
  wandb: str | None,
  first_host: bool,
):
  """Says that the run is at its end; W&B gets metrics that it has not.

  Args:
    config: of the run.
    workdir: of the run.
    start: where it would go on.
    wandb: as for `loop.train`.
    first_host: whether this is the one that says it.
  """
  with metrics_lib.MetricWriter(
    workdir,
    start_step=start.step,
    num_steps=config.train.num_steps,
    name=config.stage.name,
    enabled=first_host,
    wandb=wandb,
    config=json.loads(config_lib.to_json(config)),
  ) as writer:
    for line in start.told:
      writer.say(line)
    writer.say(
      f'the run is at its end, at step {start.step:,} of '
      f'{config.train.num_steps:,}: nothing is left to train'
    )
