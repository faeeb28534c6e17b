"""What a field is refused for: one line with field, value and what would do."""

import dataclasses
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


def default_unless(config, group, names, is_read, accepted):
  """Raises ValueError where a field that nothing would read is set.

  Args:
    config: the dataclass that has the fields.
    group: its place, such as 'stage.sample'.
    names: of the fields.
    is_read: whether anything reads them.
    accepted: what to set so that something does.
  """
  defaults = {f.name: f.default for f in dataclasses.fields(config)}
  for name in names:
    value, default = getattr(config, name), defaults[name]
    require(
      is_read or value == default,
      f'{group}.{name} is {value!r}, which nothing reads; accepted: '
      f'{default!r}, or {accepted}',
    )
