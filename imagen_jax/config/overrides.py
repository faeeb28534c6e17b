"""`--set a.b=value`: a config with some fields changed."""

import dataclasses
import difflib
import json
import typing

from imagen_jax.config import json_form
from imagen_jax.config.schema import Config


def override(config: Config, assignments: typing.Iterable[str]) -> Config:
  """Returns `config` with each `a.b=value` of `assignments` applied.

  Values are JSON, or bare strings; 'none' is None; a tuple is a JSON list. A
  task of the mixture is named: `data.tasks.openmoji.rate=2`. All are applied
  before the result is checked, so that the order does not matter.

  Raises:
    ValueError: for an unknown field, naming the nearest one, or a value of
      the wrong type.
  """
  tree = {}
  for assignment in assignments:
    path, equals, text = assignment.partition('=')
    if not equals:
      raise ValueError(f'--set {assignment!r} has no "="; accepted: a.b=value')
    node = tree
    *parents, leaf = path.strip().split('.')
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f'--set {path} also sets a part of itself')
    node[leaf] = text
  return _apply(config, tree, '')


def _apply(node, tree, prefix):
  """Returns dataclass `node` with the nested strings of `tree` applied."""
  hints = typing.get_type_hints(type(node))
  changes = {}
  for name, value in tree.items():
    path = prefix + name
    if name not in hints:
      raise ValueError(
        f'--set {path}: no such field; {_suggest(name, hints, prefix)}'
      )
    current = getattr(node, name)
    if not isinstance(value, dict):
      if dataclasses.is_dataclass(current):
        inside = ', '.join(f.name for f in dataclasses.fields(current))
        raise ValueError(f'--set {path} is a group; accepted: one of {inside}')
      changes[name] = _parse(path, value, hints[name])
    elif dataclasses.is_dataclass(current):
      changes[name] = _apply(current, value, path + '.')
    elif name == 'tasks':
      changes[name] = _apply_tasks(current, value, path + '.')
    else:
      raise ValueError(f'--set {path} has no fields of its own')
  return dataclasses.replace(node, **changes)


def _apply_tasks(tasks, tree, prefix):
  by_name = {task.name: task for task in tasks}
  for name, value in tree.items():
    if name not in by_name:
      raise ValueError(
        f'--set {prefix}{name}: no such task; {_suggest(name, by_name, prefix)}'
      )
    if not isinstance(value, dict):
      raise ValueError(f'--set {prefix}{name} is a group; name its field')
    by_name[name] = _apply(by_name[name], value, f'{prefix}{name}.')
  return tuple(by_name.values())


def _suggest(name, accepted, prefix):
  elsewhere = [path for path in _paths(Config) if path.split('.')[-1] == name]
  if elsewhere:
    return f'did you mean {" or ".join(elsewhere)}?'
  near = difflib.get_close_matches(name, accepted, n=1, cutoff=0.5)
  if near:
    return f'did you mean {prefix}{near[0]}?'
  return f'accepted: {", ".join(prefix + a for a in accepted)}'


def _paths(cls, prefix=''):
  """Yields the path of every field of a config but those of tasks."""
  for name, hint in typing.get_type_hints(cls).items():
    if dataclasses.is_dataclass(hint):
      yield from _paths(hint, f'{prefix}{name}.')
    else:
      yield prefix + name


def _parse(path, text, hint):
  """Returns `text` as a value of type `hint`."""
  try:
    value = json.loads(text)
  except json.JSONDecodeError:
    value = None if text.lower() == 'none' else text
    if text in ('True', 'False'):
      value = text == 'True'
  if hint is str:
    return text
  try:
    return json_form.convert(value, hint)
  except ValueError as error:
    # Of a dataclass in it, which says what is wrong.
    raise ValueError(f'--set {path}: {error}') from None
  except TypeError:
    shown = getattr(hint, '__name__', None)
    shown = shown if hint in (int, float, bool) else str(hint)
    raise ValueError(f'--set {path}={text}: accepted: {shown}') from None
