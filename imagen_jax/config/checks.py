"""What a field is refused for: one line with field, value and what would do."""

import math


def require(condition, message):
  """Raises ValueError with `message` unless `condition` holds."""
  if not condition:
    raise ValueError(message)


def one_of(field, value, accepted):
  """Raises ValueError unless `value` is among those `accepted`."""
  require(
    value in accepted,
    f'{field} is {value!r}; accepted: {", ".join(map(repr, accepted))}',
  )


def above_zero(field, value):
  """Raises ValueError unless `value` is a finite number above 0."""
  require(
    0 < value < math.inf, f'{field} is {value!r}; accepted: numbers above 0'
  )


def finite(field, value):
  """Raises ValueError unless `value` is a finite number."""
  require(
    math.isfinite(value), f'{field} is {value!r}; accepted: finite numbers'
  )


def at_least(field, value, least):
  """Raises ValueError unless `value` is `least` or more."""
  require(value >= least, f'{field} is {value!r}; accepted: {least} or more')
