"""What the metadata of a record must say, for it to be used."""

from collections.abc import Sequence

import numpy as np

from imagen_jax import config as config_lib
from imagen_jax.data import table as table_lib


def refused(row: dict, filters: Sequence[config_lib.FilterConfig]) -> str:
  """Returns why a row is not used, by its metadata; '' where it is.

  Args:
    row: of a `table.Table`.
    filters: all of which it must pass.
  """
  for wanted in filters:
    if reason := _refused(row, wanted):
      return reason
  return ''


def _refused(row, wanted):
  field = wanted.field
  value = row.get(field)
  if isinstance(value, list):
    value = value[0] if value else None
  if value is None:
    return f'no {field}'
  if wanted.accepted:
    if isinstance(value, bool | int | float):
      value = str(value)
    value = table_lib.as_bytes(value).decode(errors='replace')
    return '' if value in wanted.accepted else f'{field} is another'
  try:
    # A CSV has numbers as texts; what is no number is none.
    value = float(value)
  except (TypeError, ValueError, OverflowError):
    return f'{field} is no number'
  # So that NaN, of which all comparisons are false, does not pass.
  if wanted.least is not None and not _single(value) >= _single(wanted.least):
    return f'{field} under {wanted.least:g}'
  if wanted.most is not None and not _single(value) <= _single(wanted.most):
    return f'{field} over {wanted.most:g}'
  return ''


def _single(value):
  """Returns a number as 32 bits hold it, as an Example does.

  Otherwise what was written as 0.01 would be less than 0.01.
  """
  with np.errstate(over='ignore'):
    return np.float32(value)
