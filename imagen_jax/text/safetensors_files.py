"""Tensors of local safetensors files, read a few rows at a time.

A file is a little-endian length in 8 bytes, a JSON header of that length, and
the tensors' bytes. The `safetensors` package maps a file into memory, where
what was read once counts as the process's own; here only what is asked for is
read.
"""

import dataclasses
import json
import math
import os
import struct

import ml_dtypes
import numpy as np

_DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'I16': np.dtype(np.int16),
  'I8': np.dtype(np.int8),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a file, row-major.

  Attributes:
    path: of the file.
    start: its first byte there.
    shape: its shape.
    dtype: of its elements.
  """

  path: str
  start: int
  shape: tuple[int, ...]
  dtype: np.dtype

  def read(self, index: tuple[slice, ...]) -> np.ndarray:
    """Returns a slice; whole rows of axis 0 are read for it.

    Raises:
      OSError: where the file ends before them.
    """
    if not self.shape:
      rows, count, inside = slice(0, 1), 1, 1
    else:
      begin, end, _ = index[0].indices(self.shape[0])
      rows, count = slice(begin, end), end - begin
      inside = math.prod(self.shape[1:])
    value = np.fromfile(
      self.path,
      self.dtype,
      count * inside,
      offset=self.start + rows.start * inside * self.dtype.itemsize,
    )
    if value.size != count * inside:
      raise OSError(f'{self.path} ends before its last tensor')
    value = value.reshape(count, *self.shape[1:]) if self.shape else value[0]
    return value[(slice(None), *index[1:])] if self.shape else value


def tensors(path: str) -> dict[str, Tensor]:
  """Returns the tensors of a file, by name.

  Raises:
    ValueError: where the file is truncated or corrupt, with what is wrong.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as file:
    start = file.read(8)
    length = struct.unpack('<Q', start)[0] if len(start) == 8 else size
    if length + 8 > size:
      raise ValueError(f'its header should have {length} bytes')
    header = file.read(length)
  try:
    entries = json.loads(header)
    entries.pop('__metadata__', None)
    found = {
      name: _tensor(path, length + 8, entry) for name, entry in entries.items()
    }
    last = max((e['data_offsets'][1] for e in entries.values()), default=0)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'its header does not parse: {error}') from error
  if last + length + 8 != size:
    raise ValueError(f'it has {size} bytes, not {last + length + 8}')
  return found


def _tensor(path, data, entry):
  begin, end = entry['data_offsets']
  shape = tuple(entry['shape'])
  if entry['dtype'] not in _DTYPES:
    raise ValueError(f'a tensor is of type {entry["dtype"]}')
  dtype = _DTYPES[entry['dtype']]
  if end - begin != math.prod(shape) * dtype.itemsize:
    raise ValueError(f'a tensor of shape {list(shape)} has {end - begin} bytes')
  return Tensor(path, data + begin, shape, dtype)
