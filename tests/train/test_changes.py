"""What of the optimiser and the network may be changed where a run resumes."""

import re

import pytest

from imagen_jax import config as config_lib
from imagen_jax.train import advance
from imagen_jax.train import loop

OTHER_ARRAYS = "the checkpoint's state has other arrays"
REFUSED = {
  'rules': (
    ['optimizer.rules=[{"path": "stem*", "freeze": true}]'],
    (
      r"optimizer\.rules: \(\) -> \(\{'path': 'stem\*', .*\},\): "
      rf'{OTHER_ARRAYS} \(\d+ of them, such as opt_state/.*: .* -> .*\); '
      r'accepted: the same \(of a rule, learning_rate and weight_decay may be '
      r'others\), or another --workdir$'
    ),
  ),
  # Of two changes, the one by which it is.
  'moments': (
    ['optimizer.learning_rate=0.02', 'optimizer.moment_dtype=bfloat16'],
    (
      r"optimizer\.moment_dtype: 'float32' -> 'bfloat16': "
      rf'{OTHER_ARRAYS} \(\d+ of them, such as opt_state/.*: '
      r'float32\[.*\] -> bfloat16\[.*\]\); accepted: the same, or another'
    ),
  ),
  'network': (
    ['stage.unet.channels=[16]'],
    rf'stage\.unet\.channels: \(8,\) -> \(16,\): {OTHER_ARRAYS}',
  ),
}


def config(tiny, *assignments):
  return config_lib.override(config_lib.load(tiny), assignments)


@pytest.mark.parametrize('changes, words', REFUSED.values(), ids=REFUSED)
def test_other_arrays_are_refused_in_a_line(
  changes, words, tiny, trained, runs
):
  """Not as damage of the checkpoints, which stay where they are."""
  cfg = config(tiny, 'train.num_steps=9', *changes)
  with pytest.raises(ValueError) as refused:
    loop.train(cfg, str(trained), allow_config_change=True)
  assert re.match(words, str(refused.value)), refused.value
  assert '\n' not in str(refused.value)
  assert runs.steps(trained) == [4, 8]


def test_what_a_rule_multiplies_by_may_be_changed(tiny, runs, tmp_path):
  rules = 'optimizer.rules=[{"path": "stem*", "learning_rate": %s}]'
  loop.train(config(tiny, 'train.num_steps=2', rules % 0.5), str(tmp_path))
  cfg = config(tiny, 'train.num_steps=3', rules % '0.25, "weight_decay": 0.1')
  outcome = loop.train(cfg, str(tmp_path), allow_config_change=True)
  assert outcome == advance.Outcome(3, None)
  assert runs.steps(tmp_path) == [2, 3]
