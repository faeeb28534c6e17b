"""Files that a command writes when minutes of work are done."""

import os


def check(files: dict[str, str | None]):
  """Refuses files that cannot be written, before the work.

  Args:
    files: path by the flag that names it, local or gs://...; None is not asked
      for.

  Raises:
    ValueError: where a path's folder is not there or the path is a folder, or
      its bucket cannot be written.
  """
  from imagen_jax import storage

  for flag, path in files.items():
    if path is None:
      continue
    if storage.is_bucket(path):
      storage.check_writable(path.rpartition('/')[0], flag)
      continue
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder):
      raise ValueError(
        f'{flag} is {path}; accepted: a file in a folder that is there'
      )
