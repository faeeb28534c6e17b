"""Assignments to fields, as text."""

import dataclasses

from example_config import example
import pytest

from imagen_jax import config as config_lib


@pytest.mark.parametrize(
  'assignment, path, value',
  [
    ('train.seed=7', 'train.seed', 7),
    ('train.ema_decay=0', 'train.ema_decay', 0.0),
    ('train.ema_lengths=[0.05, 0.1]', 'train.ema_lengths', (0.05, 0.1)),
    ('optimizer.learning_rate=3e-4', 'optimizer.learning_rate', 3e-4),
    ('stage.unet.remat=false', 'stage.unet.remat', False),
    ('stage.unet.remat=False', 'stage.unet.remat', False),
    ('stage.lowres_size=16', 'stage.lowres_size', 16),
    ('stage.name=12', 'stage.name', '12'),
    ('text.store=gs://b/x=y', 'text.store', 'gs://b/x=y'),
    ('stage.unet.channels=[32,64]', 'stage.unet.channels', (32, 64)),
    ('data.tasks=[]', 'data.tasks', ()),
    (
      'data.tasks=[{"name": "n", "path": "p", "rate": 3}]',
      'data.tasks',
      (config_lib.TaskConfig('n', 'p', 3.0),),
    ),
    (
      'optimizer.rules=[{"path": "*/bias", "learning_rate": 2}]',
      'optimizer.rules',
      (config_lib.ParameterRule('*/bias', 2.0),),
    ),
  ],
)
def test_override_sets_one_field(assignment, path, value):
  changed = config_lib.override(example(), [assignment])
  found = changed
  for name in path.split('.'):
    found = getattr(found, name)
  assert found == value
  assert type(found) is type(value)
  # And nothing else.
  old, new = (dataclasses.asdict(each) for each in (example(), changed))
  for name in path.split('.')[:-1]:
    assert {k for k in new if new[k] != old[k]} <= {name}
    old, new = old[name], new[name]
  assert {k for k in new if new[k] != old[k]} == {path.split('.')[-1]}


def test_override_sets_none():
  stage = dataclasses.replace(example().stage, lowres_size=16)
  old = dataclasses.replace(example(), stage=stage)
  new = config_lib.override(old, ['stage.lowres_size=none'])
  assert new.stage.lowres_size is None


def test_override_sets_the_empty_string():
  text = dataclasses.replace(example().text, store='s')
  old = dataclasses.replace(example(), text=text)
  assert not config_lib.override(old, ['text.store=']).text.store


def test_override_names_a_task():
  new = config_lib.override(
    example(), ['data.tasks.shapes.rate=5', 'data.tasks.openmoji.path=/x']
  )
  assert [task.rate for task in new.data.tasks] == [1.0, 5.0]
  assert [task.path for task in new.data.tasks] == ['/x', 'a/shapes']


def test_override_checks_once_all_are_applied():
  one = 'stage.unet.channels=[32,64,96]'
  with pytest.raises(ValueError, match='num_res_blocks has 2 entries'):
    config_lib.override(example(), [one])
  rest = [
    f'stage.unet.{name}=[{value},{value},{value}]'
    for name, value in (
      ('num_res_blocks', 1),
      ('self_attention', 'false'),
      ('text_attention', 'false'),
    )
  ]
  assert config_lib.override(example(), [one, *rest]) == config_lib.override(
    example(), [*rest, one]
  )


def test_override_of_nothing_is_the_same():
  assert config_lib.override(example(), []) == example()


@pytest.mark.parametrize(
  'assignment, words',
  [
    ('train.seed', '\'train.seed\' has no "="; accepted: a.b=value'),
    ('train.sed=1', 'train.sed: no such field; did you mean train.seed'),
    ('trian.seed=1', 'trian: no such field; did you mean train?'),
    ('train.learning_rate=1', r'did you mean optimizer.learning_rate\?'),
    ('seed=1', r'seed: no such field; did you mean train.seed\?'),
    ('train.zzz=1', 'train.zzz: no such field; accepted: train.batch_size, '),
    ('stage.unet.chanels=1', 'did you mean stage.unet.channels?'),
    ('zzz=1', 'no such field; accepted: stage, text, data, optimizer'),
    ('mesh.zzz=1', 'accepted: mesh.data, mesh.fsdp, mesh.model'),
    (
      'train=1',
      'train is a group; accepted: one of batch_size, microbatches, ',
    ),
    ('train.seed.x=1', 'train.seed has no fields of its own'),
    ('stage.unet.channels.0=1', 'has no fields of its own'),
    ('train.seed=x', 'train.seed=x: accepted: int'),
    ('train.seed=1.5', 'accepted: int'),
    ('train.seed=true', 'accepted: int'),
    ('train.seed=none', 'accepted: int'),
    ('train.ema_decay=high', 'accepted: float'),
    ('train.ema_decay=true', 'accepted: float'),
    ('stage.unet.remat=1', 'accepted: bool'),
    ('stage.unet.channels=64', r'accepted: tuple\[int, \.\.\.\]'),
    ('stage.unet.channels=["a"]', r'accepted: tuple\[int, \.\.\.\]'),
    ('stage.lowres_size=x', 'accepted: int | None'),
    ('data.tasks.shape.rate=1', 'shape: no such task; did you mean data'),
    ('data.tasks.zzz.rate=1', 'accepted: data.tasks.openmoji, data.tasks'),
    ('data.tasks.shapes=1', 'data.tasks.shapes is a group; name its field'),
    ('data.tasks.shapes.rat=1', 'did you mean data.tasks.shapes.rate?'),
    ('data.tasks.shapes.rate=0', r'data.tasks\[shapes\].rate is 0'),
    ('data.tasks.shapes.rate=Infinity', r'shapes\].rate is inf; accepted'),
    ('data.tasks=[{"name": "n"}]', 'data.tasks=.*: accepted: tuple'),
    ('data.tasks=[["name"]]', 'data.tasks=.*: accepted: tuple'),
    (
      'optimizer.rules=[{"path": "a"}]',
      r'--set optimizer.rules: optimizer.rules\[a\] changes nothing; accepted',
    ),
    (
      'optimizer.rules=[{"paht": "a"}]',
      r"ParameterRule has no fields \['paht'",
    ),
    ('train.batch_size=0', 'train.batch_size is 0; accepted: 1 or more'),
  ],
)
def test_override_refuses(assignment, words):
  with pytest.raises(ValueError, match=words) as refusal:
    config_lib.override(example(), [assignment])
  assert '\n' not in str(refusal.value)


def test_override_refuses_a_field_and_its_parts():
  with pytest.raises(ValueError, match='train.seed also sets a part of itself'):
    config_lib.override(example(), ['train=1', 'train.seed=2'])
