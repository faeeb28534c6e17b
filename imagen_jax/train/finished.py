"""What a run says that has nothing left to train, as one started once more."""

import json
import sys

from imagen_jax import config as config_lib
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import start as start_lib


def say_read(config: config_lib.Config, step: int, first_host: bool):
  """Says that the last checkpoint is read, which may take a while.

  Args:
    config: of the run.
    step: of the checkpoint.
    first_host: whether this is the one that says it.
  """
  if first_host:
    print(
      f'{config.stage.name}: the newest checkpoint is of step {step:,}, and '
      f'train.num_steps is {config.train.num_steps:,}: it is read and checked',
      file=sys.stderr,
      flush=True,
    )


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
