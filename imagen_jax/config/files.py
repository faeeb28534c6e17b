"""Configs out of files of Python."""

import importlib.util
import pathlib
import traceback

from imagen_jax.config.schema import Config


def load(spec: str) -> Config:
  """Returns the config of `PATH.py` or `PATH.py:ROW`.

  Raises:
    ValueError: where there is no such file, or no such row in it, or its code
      fails.
  """
  path, _, row = spec.partition(':')
  if not path.endswith('.py') or not pathlib.Path(path).is_file():
    raise ValueError(
      f'--config is {spec!r}; accepted: a file such as configs/base64.py, '
      'with :ROW behind it for one of its rows'
    )
  module_spec = importlib.util.spec_from_file_location('_config', path)
  module = importlib.util.module_from_spec(module_spec)
  _run(path, module_spec.loader.exec_module, module)
  if not callable(getattr(module, 'get_config', None)):
    raise ValueError(
      f'--config {path} has no get_config; accepted: a file that defines '
      'get_config(), as those of configs/ do'
    )
  rows = getattr(module, 'ROWS', ())
  if row and row not in rows:
    raise ValueError(
      f'{path} has no row {row!r}; accepted: {", ".join(rows) or "none"}'
    )
  found = _run(path, module.get_config, *([row] if row else []))
  if not isinstance(found, Config):
    raise ValueError(
      f'get_config of {path} returned a {type(found).__name__}; accepted: an '
      'imagen_jax.config.Config'
    )
  return found


def _run(path, function, *args):
  """Returns what code of a config returns; ValueError with its line if none."""
  try:
    return function(*args)
  except Exception as error:
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == path
    ]
    if isinstance(error, SyntaxError):
      lines.append(error.lineno)
    place = f'{path}:{lines[-1]}' if lines else path
    if isinstance(error, ValueError):  # A field's, which says all.
      raise ValueError(f'--config {place}: {error}') from error
    raise ValueError(
      f'--config {place}: {type(error).__name__}: {error}; accepted: a file '
      'that Python runs'
    ) from error
