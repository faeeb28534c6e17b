"""What of an error a person is told, who can mend it."""

import os
import pathlib
import traceback

import imagen_jax

# Set to anything, it is `--traceback`, for programs that call this one.
TRACEBACK_VARIABLE = 'IMAGEN_JAX_TRACEBACK'

_PACKAGE = str(pathlib.Path(imagen_jax.__file__).parent)


def told(error: Exception) -> str | None:
  """A line for the person, or None where the mistake is not theirs."""
  if isinstance(error, OSError):
    if error.filename is None:
      return None
    return f'{error.filename}: {error.strerror or error}'
  if not isinstance(error, ValueError):
    return None
  # Our own refusals are written for the person who reads them; a ValueError
  # out of a library, or out of Python, says too little without its place.
  frame, _ = list(traceback.walk_tb(error.__traceback__))[-1]
  ours = frame.f_code.co_filename.startswith(_PACKAGE + os.sep)
  return ' '.join(str(error).split()) if ours else None
