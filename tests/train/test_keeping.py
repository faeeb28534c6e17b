"""Which checkpoints are kept; that they are is in test_checkpoint.py."""

import datetime
import math
import types

from orbax.checkpoint import checkpoint_managers
import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import keeping

BEGUN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LOSSES = [9.0, 1.0, 7.0, 2.0, 8.0, None, 3.0, 6.0, 5.0, 4.0]


def kept(**values):
  """The steps, of ten an hour apart, that a run keeps besides the newest."""
  cfg = config_lib.Config(
    train=config_lib.TrainConfig(keep_checkpoints=1),
    keep=config_lib.KeepConfig(**values),
  )
  every = [
    types.SimpleNamespace(
      step=10 * number,
      time=BEGUN + datetime.timedelta(hours=number),
    )
    for number in range(1, 1 + len(LOSSES))
  ]
  judged = {
    10 * number: loss and {'loss': loss}
    for number, loss in enumerate(LOSSES, 1)
  }
  policy = keeping.options(cfg, judged)['preservation_policy']
  found = policy.should_preserve(
    every, context=checkpoint_managers.PreservationContext()
  )
  return [info.step for info, keep in zip(every, found) if keep]


@pytest.mark.parametrize(
  'values, expected',
  [
    ({}, []),
    ({'every_steps': 30}, [30, 60, 90]),
    ({'every_hours': 4.0}, [10, 50, 90]),
    ({'best': 2}, [20, 40]),
    ({'best': 2, 'mode': 'max'}, [10, 50]),
    ({'best': 1, 'every_steps': 50}, [20, 50]),
    # Where nothing is known of one, or of another metric, it is not among
    # the best.
    ({'best': 2, 'metric': 'other'}, []),
    ({'best': 9}, [10, 20, 30, 40, 50, 70, 80, 90]),
  ],
)
def test_what_is_kept(values, expected):
  assert kept(**values) == [*expected, 100]


def test_all_are_kept_without_a_config():
  assert keeping.options(None, {}) == {}


@pytest.mark.parametrize(
  'keep, line, expected',
  [
    ({'best': 1}, {'loss': 2}, {'loss': 2.0}),
    ({'best': 0}, {'loss': 2}, None),
    ({'best': 1, 'metric': 'other'}, {'loss': 2}, None),
    ({'best': 1}, {'loss': math.nan}, None),
  ],
)
def test_what_a_checkpoint_is_judged_by(keep, line, expected):
  assert keeping.judged(line, config_lib.KeepConfig(**keep)) == expected
