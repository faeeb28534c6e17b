"""What is said of a checkpoint that cannot be read."""

from imagen_jax import storage

# Letters of what others say of a damaged file; they say more.
_TOLD = 300

# What TensorStore and the system say where nothing is known of what lies there.
_UNKNOWN = (
  'PERMISSION_DENIED',
  'UNAUTHENTICATED',
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'RESOURCE_EXHAUSTED',
  'Permission denied',
  'Too many open files',
)


class DamagedError(ValueError):
  """A checkpoint that cannot be read, or is not what was saved."""


def met(error: Exception, step: int, item: str, path) -> Exception:
  """What to raise where an item of a checkpoint cannot be read.

  Args:
    error: what was met.
    step: of the checkpoint.
    item: of it.
    path: where the item lies.
  """
  for one in _chain(error):
    if any(word in str(one) for word in _UNKNOWN):
      return storage.refusal('--workdir', path, 'read', one)
  return DamagedError(
    f'checkpoint {step}: {item} cannot be read ({reason(error)})'
  )


def reason(error: BaseException) -> str:
  """What was met first, in a line: Orbax wraps it."""
  *_, first = _chain(error)
  line = str(first).partition('\n')[0] or type(first).__name__
  return line[:_TOLD]


def _chain(error):
  """Yields an error and what it was raised from."""
  while error is not None:
    yield error
    error = error.__cause__
