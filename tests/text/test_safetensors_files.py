"""Slices of safetensors files, against the package that writes them."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.text import safetensors_files


@pytest.mark.parametrize(
  'dtype', [np.float32, np.float16, ml_dtypes.bfloat16, np.int8]
)
def test_slices_are_those_of_the_array(tmp_path, dtype):
  path = str(tmp_path / 'a.safetensors')
  value = np.arange(60).reshape(5, 4, 3).astype(dtype)
  vector = np.arange(7).astype(dtype)
  safetensors.numpy.save_file({'x': value, 'v': vector}, path)
  found = safetensors_files.tensors(path)
  assert set(found) == {'x', 'v'}
  assert (found['x'].shape, found['x'].dtype) == ((5, 4, 3), dtype)
  for index in (np.s_[:, :, :], np.s_[1:4, :, 2:], np.s_[4:5, 1:2, :2]):
    np.testing.assert_array_equal(found['x'].read(index), value[index])
  np.testing.assert_array_equal(found['v'].read(np.s_[2:5,]), vector[2:5])


def test_a_file_cut_after_opening_is_refused(tmp_path):
  path = tmp_path / 'a.safetensors'
  safetensors.numpy.save_file({'x': np.zeros((8, 8))}, path)
  found = safetensors_files.tensors(str(path))
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(OSError, match='ends before its last tensor'):
    found['x'].read(np.s_[:, :])


def write(path, header, data=b''):
  header = json.dumps(header).encode() if isinstance(header, dict) else header
  path.write_bytes(struct.pack('<Q', len(header)) + header + data)


@pytest.mark.parametrize(
  ('header', 'message'),
  [
    (b'{"x": ', 'does not parse'),
    (b'[]', 'does not parse'),
    ({'x': {'dtype': 'F32', 'shape': [2]}}, 'does not parse'),
    (
      {'x': {'dtype': 'F32', 'shape': [3], 'data_offsets': [0, 8]}},
      r'shape \[3\] has 8 bytes',
    ),
    (
      {'x': {'dtype': 'F4', 'shape': [2], 'data_offsets': [0, 8]}},
      'of type F4',
    ),
    (
      {'x': {'dtype': 'F32', 'shape': [3], 'data_offsets': [0, 12]}},
      'bytes, not',
    ),
  ],
)
def test_bad_headers_are_refused(tmp_path, header, message):
  write(tmp_path / 'a', header, bytes(8))
  with pytest.raises(ValueError, match=message):
    safetensors_files.tensors(str(tmp_path / 'a'))
