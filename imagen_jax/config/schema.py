"""All of a config, and which of it a run is a function of."""

import dataclasses
import fnmatch

from imagen_jax.config.guard import GuardConfig
from imagen_jax.config.guard import KeepConfig
from imagen_jax.config.inputs import DataConfig
from imagen_jax.config.inputs import TextConfig
from imagen_jax.config.run import MeshConfig
from imagen_jax.config.run import OptimizerConfig
from imagen_jax.config.run import TrainConfig
from imagen_jax.config.stage import StageConfig


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that a run is a function of, besides its data."""

  stage: StageConfig = StageConfig()
  text: TextConfig = TextConfig()
  data: DataConfig = DataConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  mesh: MeshConfig = MeshConfig()
  train: TrainConfig = TrainConfig()
  guard: GuardConfig = GuardConfig()
  keep: KeepConfig = KeepConfig()


# Fields, as patterns, that change how a run is watched, where it runs or where
# its data lies, not what it computes: a resumed run may set them anew.
RUNTIME_FIELDS = (
  'mesh.*',
  'stage.unet.remat',
  'stage.unet.remat_policy',
  'stage.unet.scan',
  'optimizer.stacked',
  'text.store',
  'text.online',
  'text.checkpoint',
  'text.vocabulary',
  'data.prefetch',
  'data.threads',
  'data.tasks.*.path',
  'data.tasks.*.index',
  'train.microbatches',
  'train.log_every',
  'train.module_norms',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'train.ema_snapshot_every',
  'train.ema_snapshot_dtype',
  'train.stall_factor',
  'train.sample_every',
  'train.num_samples',
  # A run has met no bad step yet that it went on after, or does so again.
  'guard.*',
  'keep.*',
  'train.sample_lowres',
  'train.eval_every',
  'train.num_eval_examples',
  'train.eval_logsnr',
  'train.eval_aug_level',
)


def outcome_fields(tree: dict) -> dict:
  """Returns the fields that results are a function of, by path.

  A field of a task goes by the task's name, as in `override`.

  Args:
    tree: a config as nested dicts, such as its JSON has; of any version.
  """

  def flatten(node, prefix=''):
    if isinstance(node, dict):
      for name, value in node.items():
        yield from flatten(value, f'{prefix}.{name}' if prefix else name)
    elif prefix == 'data.tasks':
      # Their order matters too: it decides which examples meet in a batch.
      yield prefix, [task['name'] for task in node]
      yield from flatten({task['name']: task for task in node}, prefix)
    else:
      yield prefix, node

  return {
    path: value
    for path, value in flatten(tree)
    if not any(fnmatch.fnmatchcase(path, field) for field in RUNTIME_FIELDS)
  }


def differences(old: Config, new: Config) -> list[str]:
  """Returns 'field: old -> new' for every field that changes the results."""
  was = outcome_fields(dataclasses.asdict(old))
  now = outcome_fields(dataclasses.asdict(new))
  return [
    f'{path}: {was.get(path)!r} -> {now.get(path)!r}'
    for path in sorted({**was, **now})
    if was.get(path) != now.get(path)
  ]
