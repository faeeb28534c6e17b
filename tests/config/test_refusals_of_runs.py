"""Each group of fields of a run refuses what cannot be, in one line."""

import math

from example_config import TASKS
import pytest

from imagen_jax import config as config_lib


@pytest.mark.parametrize(
  'cls, values, words',
  [
    (
      'OptimizerConfig',
      {'learning_rate': float('inf')},
      'learning_rate is inf; accepted: a finite',
    ),
    ('OptimizerConfig', {'b1': 2.0}, r'b1 is 2.0; accepted: \[0, 1\)'),
    ('OptimizerConfig', {'b2': 1.0}, r'b2 is 1.0; accepted: \[0, 1\)'),
    ('OptimizerConfig', {'eps': -1.0}, r'eps is -1.0; accepted: \(0, 1\)'),
    ('TrainConfig', {'seed': -1}, 'train.seed is -1'),
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
