"""T5X's two layouts, opened as {parameter name: stored array}.

- T5X's own: a msgpack index `checkpoint` beside one Zarr folder a parameter.
  Orbax of 2022 and 2023 wrote the same, less one level of the index.
  The index's storage specs come in several forms, and name the machine that
  wrote them; the folder follows from the parameter's name, and nothing else of
  the spec is used.
- Orbax's: `_METADATA` beside an OCDBT store, or beside one Zarr folder a
  parameter.

Optimizer state and decoder are never opened.
"""

import json

from flax import serialization
import msgpack
import numpy as np
import tensorstore as ts

from imagen_jax import storage
from imagen_jax.text import stored as stored_lib

FIELD = stored_lib.FIELD


def open_msgpack(folder: str, index: bytes) -> dict[str, stored_lib.Stored]:
  """Returns the encoder's arrays of T5X's own layout.

  Args:
    folder: the step folder, resolved.
    index: contents of its file `checkpoint`.

  Raises:
    ValueError: where the index is of another program, truncated, without an
      encoder, or an array does not open.
  """
  if index.lstrip().startswith(b'model_checkpoint_path'):
    raise ValueError(
      f'{FIELD} {folder} is a TensorFlow checkpoint, as Mesh TensorFlow '
      'wrote it; accepted: its conversion by T5X'
    )
  try:
    tree = serialization.msgpack_restore(index)
  except (ValueError, msgpack.UnpackException) as error:
    raise ValueError(
      f'{FIELD} {folder}: the index `checkpoint` is truncated or corrupt '
      f'({str(error) or type(error).__name__})'
    ) from error
  try:
    # Orbax's index has no optimizer/; its leaves are PLACEHOLDER://NAME.
    leaves = _flatten(tree.get('optimizer', tree)['target'])
  except (KeyError, TypeError, AttributeError):
    raise ValueError(
      f'{FIELD} {folder}: the index `checkpoint` has no optimizer/target '
      'and no target; accepted: an index that T5X or Orbax wrote'
    ) from None
  arrays, pending = {}, {}
  for name in _encoder_names(folder, leaves):
    leaf = leaves[name]
    if isinstance(leaf, np.ndarray):
      arrays[name] = stored_lib.of_array(leaf)
    else:
      key = 'target.' + name.replace('/', '.')
      kvstore = storage.kvstore(f'{folder}/{key}', folder=True)
      pending[name] = {'driver': 'zarr', 'kvstore': kvstore}
  return _unstack(arrays | _open_all(folder, pending))


def open_orbax(folder: str, metadata: bytes) -> dict[str, stored_lib.Stored]:
  """Returns the encoder's arrays of an Orbax PyTree that T5X saved.

  Args:
    folder: that of `_METADATA`, resolved.
    metadata: contents of that file.

  Raises:
    ValueError: where it is truncated, without an encoder, or an array does not
      open.
  """
  try:
    tree = json.loads(metadata)
    entries = [
      [str(key['key']) for key in entry['key_metadata']]
      for entry in tree['tree_metadata'].values()
    ]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{FIELD} {folder}: _METADATA is truncated or corrupt ({error})'
    ) from error
  found = {
    '/'.join(keys[1:]): '.'.join(keys)
    for keys in entries
    if keys[0] == 'target'
  }
  driver = 'zarr3' if tree.get('use_zarr3') else 'zarr'
  pending = {}
  for name in _encoder_names(folder, found):
    if tree.get('use_ocdbt'):
      kvstore = {
        'driver': 'ocdbt',
        'base': storage.kvstore(folder, folder=True),
        'path': found[name] + '/',
      }
    else:
      kvstore = storage.kvstore(f'{folder}/{found[name]}', folder=True)
    pending[name] = {'driver': driver, 'kvstore': kvstore}
  return _unstack(_open_all(folder, pending))


def _flatten(tree, prefix=''):
  """Returns {'a/b/c': leaf}; a storage spec is a leaf."""
  leaves = {}
  for name, value in tree.items():
    if isinstance(value, dict) and 'driver' not in value:
      leaves |= _flatten(value, f'{prefix}{name}/')
    elif value is not None:
      leaves[prefix + name] = value
  return leaves


def _encoder_names(folder, names):
  """Returns the names of the encoder and the embedder, or refuses."""
  if not any(name.startswith('encoder/') for name in names):
    kind = (
      'is of a decoder alone'
      if any(name.startswith('decoder/') for name in names)
      else 'holds no parameters of an encoder'
    )
    raise ValueError(
      f'{FIELD} {folder} {kind}; accepted: a checkpoint with an encoder'
    )
  wanted = ('encoder/', 'token_embedder/')
  return [name for name in names if name.startswith(wanted)]


def _open_all(folder, specs):
  """Returns TensorStore's arrays of `specs`, opened side by side."""
  opening = {
    name: ts.open(
      # An absent chunk would otherwise read as zeros.
      {**spec, 'fill_missing_data_reads': False},
      open=True,
      read=True,
      context=storage.CONTEXT,
    )
    for name, spec in specs.items()
  }
  return {
    name: _stored(folder, name, future) for name, future in opening.items()
  }


def _stored(folder, name, future):
  try:
    array = future.result()
  except ValueError as error:
    raise storage.refusal(f'{FIELD} {folder}:', name, 'read', error) from error

  def read(index):
    try:
      return array[index].read().result()
    except ValueError as error:
      raise storage.refusal(
        f'{FIELD} {folder}:', name, 'read', error
      ) from error

  chunks = array.chunk_layout.read_chunk.shape
  return stored_lib.Stored(
    tuple(array.shape), array.dtype.numpy_dtype, tuple(chunks), read
  )


def _unstack(arrays):
  """Returns `arrays` with each stacked layer under a name of its own.

  T5X's scanned modules, encoder/encoder/..., have the layers on axis 1.
  """
  flat = {}
  for name, stored in arrays.items():
    if not name.startswith('encoder/encoder/'):
      flat[name] = stored
      continue
    inside = name.removeprefix('encoder/encoder/')
    for i, layer in enumerate(stored_lib.layers(stored)):
      flat[f'encoder/layers_{i}/{inside}'] = layer
  return flat
