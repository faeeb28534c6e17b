"""In what two configs differ."""

import dataclasses
import fnmatch

from example_config import example

from imagen_jax import config as config_lib


def test_differences_are_those_that_change_results():
  old = example()
  new = config_lib.override(
    old, ['train.seed=3', 'stage.unet.dropout=0.1', 'train.log_every=7']
  )
  assert config_lib.differences(old, old) == []
  assert config_lib.differences(old, new) == [
    'stage.unet.dropout: 0.0 -> 0.1',
    'train.seed: 0 -> 3',
  ]


def test_differences_of_tasks_are_named_and_their_places_are_none():
  old = example()
  moved = ['data.tasks.shapes.path=/new', 'data.tasks.openmoji.path=gs://new']
  assert config_lib.differences(old, config_lib.override(old, moved)) == []
  changed = [*moved, 'data.tasks.shapes.rate=3', 'data.tasks.shapes.split=all']
  assert config_lib.differences(old, config_lib.override(old, changed)) == [
    'data.tasks.shapes.rate: 2.0 -> 3.0',
    "data.tasks.shapes.split: 'train' -> 'all'",
  ]


def test_differences_tell_other_tasks_and_another_order():
  old = example()
  tasks = old.data.tasks[::-1]
  turned = dataclasses.replace(
    old, data=dataclasses.replace(old.data, tasks=tasks)
  )
  names = [task.name for task in old.data.tasks]
  order = f'data.tasks: {names} -> {names[::-1]}'
  assert config_lib.differences(old, turned) == [order]
  less = dataclasses.replace(
    old, data=dataclasses.replace(old.data, tasks=tasks[:1])
  )
  found = config_lib.differences(old, less)
  assert found[0] == f'data.tasks: {names} -> {names[-1:]}'
  assert all(f'data.tasks.{names[0]}.' in line for line in found[1:])


def test_runtime_fields_exist():
  # As `differences` names them: a task's fields go by the task's name.
  fields = dataclasses.asdict(example())
  paths = [f'{group}.{name}' for group in fields for name in fields[group]]
  for group, inside in fields['stage'].items():
    if isinstance(inside, dict):
      paths += [f'stage.{group}.{name}' for name in inside]
  for task in fields['data']['tasks']:
    paths += [f'data.tasks.{task["name"]}.{name}' for name in task]
  for field in config_lib.RUNTIME_FIELDS:
    assert fnmatch.filter(paths, field), field
