"""Configs as JSON, and JSON values as those of a type."""

import dataclasses
import json
import types
import typing

from imagen_jax.config.schema import Config


def convert(value, hint):
  """Returns a JSON value as one of type `hint`.

  Raises:
    TypeError: where it is none.
  """
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in args:
      return None
    (hint,) = [arg for arg in args if arg is not type(None)]
    return convert(value, hint)
  if origin is tuple:
    if not isinstance(value, (list, tuple)):
      raise TypeError
    return tuple(convert(item, args[0]) for item in value)
  if dataclasses.is_dataclass(hint):
    return _from_dict(hint, value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or (
    hint is not bool and isinstance(value, bool)
  ):
    raise TypeError
  return value


def _from_dict(cls, tree):
  hints = typing.get_type_hints(cls)
  if not isinstance(tree, dict):
    raise TypeError(f'{tree!r} in place of its fields')
  unknown = set(tree) - set(hints)
  if unknown:
    raise ValueError(f'{cls.__name__} has no fields {sorted(unknown)}')
  values = {}
  for name, value in tree.items():
    try:
      values[name] = convert(value, hints[name])
    except TypeError as error:
      raise TypeError(
        f'{name} is {value!r}' if not str(error) else f'{name}: {error}'
      ) from None
  return cls(**values)


def to_json(config) -> str:
  """Returns `config` (any dataclass of this file) as JSON."""
  return json.dumps(dataclasses.asdict(config), indent=2) + '\n'


def from_json(text: str, cls=Config):
  """Returns the config that `to_json` wrote.

  Raises:
    ValueError: where the text is not of this schema.
  """
  try:
    return _from_dict(cls, json.loads(text))
  except TypeError as error:
    raise ValueError(f'not a {cls.__name__}: {error}') from error
