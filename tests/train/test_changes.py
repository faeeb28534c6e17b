"""What may be another where a run resumes, and what is refused."""

import json
import pathlib
import re
import shutil

import pytest

from imagen_jax import config as config_lib
from imagen_jax.data import tasks
from imagen_jax.text import identity
from imagen_jax.text import write_store
from imagen_jax.train import advance
from imagen_jax.train import checkpoint
from imagen_jax.train import loop

pytestmark = pytest.mark.usefixtures('same_programs')

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


def test_a_changed_config_may_be_allowed(tiny, trained, runs, tmp_path):
  shutil.copytree(trained, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '8')
  cfg = config(tiny, 'train.seed=3')
  outcome = loop.train(cfg, str(tmp_path / 'run'), allow_config_change=True)
  assert outcome == advance.Outcome(8, None)
  lines, before = runs.metrics(tmp_path / 'run'), runs.metrics(trained)
  assert lines[:2] == before[:2]
  assert lines[2]['loss'] != before[2]['loss']
  text = (tmp_path / 'run' / 'config.json').read_text()
  assert config_lib.from_json(text) == cfg


def test_rates_change_where_a_run_resumes(tiny, tmp_path):
  short = config(tiny, 'train.num_steps=2', 'train.checkpoint_every=2')
  loop.train(short, str(tmp_path))
  longer = config(
    tiny,
    'train.num_steps=4',
    'train.checkpoint_every=2',
    'data.tasks.some.rate=6',
  )
  with pytest.raises(ValueError, match='rate: 2.0 -> 6.0.*--allow-config-ch'):
    loop.train(longer, str(tmp_path))
  loop.train(longer, str(tmp_path), allow_config_change=True)
  (kept,) = (
    json.loads(file.read_text())['loader']
    for file in (tmp_path / 'checkpoints' / '4').rglob('*')
    if file.is_file() and b'"mixture"' in file.read_bytes()
  )
  assert kept['mixture'] == [
    [0, {'some': 2.0, 'same': 1.0}],
    [16, {'some': 6.0, 'same': 1.0}],
  ]


@pytest.fixture
def others(tiny, tiny_encoder, tmp_path):
  """Settings for other weights of the same name, and a store of theirs."""
  other = pathlib.Path(config(tiny).text.checkpoint).parent / 't5_1_1_bf16'
  store = str(tmp_path / 'store')
  settings = [f'text.checkpoint={other}', f'text.store={store}']
  cfg = config(tiny, *settings)
  said = identity.of(cfg.text)
  write_store.write(store, tasks.captions(cfg), tiny_encoder(cfg.text), said)
  return settings, said


def test_another_encoder_of_the_same_name_is_refused(
  tiny, trained, runs, others, tmp_path
):
  settings, said = others
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  shutil.rmtree(run / 'checkpoints' / '8')
  cfg = config(tiny, *settings)
  words = (
    r"^the config differs from the checkpoint's: text.checkpoint "
    rf"\(fingerprint\): '\w+' -> '{said['checkpoint']}'; accepted: the same"
  )
  with pytest.raises(ValueError, match=words):
    loop.train(cfg, str(run))
  assert runs.steps(run) == [4]
  assert loop.train(cfg, str(run), allow_config_change=True).step == 8
  with checkpoint.Checkpointer(str(run), create=False) as checkpointer:
    assert checkpointer.said(4).identity != said
    assert checkpointer.said(8).identity == said


def test_a_checkpoint_without_an_identity_is_told(
  tiny, trained, capfd, tmp_path
):
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  shutil.rmtree(run / 'checkpoints' / '8')
  said = run / 'checkpoints' / '4' / 'config' / 'metadata'
  said.write_text(json.dumps({'json': json.loads(said.read_text())['json']}))
  loop.train(config(tiny), str(run))
  assert 'of step 4 has no identity of its text enc' in capfd.readouterr().err
  with checkpoint.Checkpointer(str(run), create=False) as checkpointer:
    assert checkpointer.said(8).identity == identity.of(config(tiny).text)
