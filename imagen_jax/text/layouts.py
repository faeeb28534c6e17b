"""The layouts of checkpoints, all opened as {parameter name: stored array}.

Opening reads names and shapes alone. A stored array reads the slices that it
is asked for, so that a host never holds more than its own shards. Names are
those of the modules in `imagen_jax/models/`.

- T5X's own: a msgpack index `checkpoint` beside one Zarr folder a parameter.
  The index's storage specs come in several forms, and name the machine that
  wrote them; the folder follows from the parameter's name, and nothing else of
  the spec is used.
- T5X's Orbax layout: `state/_METADATA` beside an OCDBT store, or beside one
  Zarr folder a parameter.
- Safetensors with Hugging Face's names of a BERT.
"""

from collections.abc import Callable
import dataclasses
import glob
import json
import os
import re

from flax import serialization
import msgpack
import numpy as np
import safetensors
import tensorstore as ts

from imagen_jax.text import files

FIELD = 'text.checkpoint'
_ACCEPTED = (
  'accepted: a T5X checkpoint (its parent, its step folder or its index), '
  'or a folder with model.safetensors'
)


@dataclasses.dataclass(frozen=True)
class Stored:
  """An array of a checkpoint.

  Attributes:
    shape: its shape.
    read: returns the slice of a tuple of slices, one an axis.
  """

  shape: tuple[int, ...]
  read: Callable[[tuple[slice, ...]], np.ndarray]


def open_checkpoint(path: str) -> dict[str, Stored]:
  """Returns the encoder's and embedder's arrays of a checkpoint, by name.

  Args:
    path: `text.checkpoint`: a folder, an index file, gs://, package:NAME. Of
      a parent of step folders the newest complete step is opened.

  Raises:
    ValueError: where there is no checkpoint, where it is of a layout that is
      not read, holds no encoder, or is truncated.
  """
  folder = files.resolve(path, FIELD)
  for index in ('/checkpoint', '/state/_METADATA', '/model.safetensors'):
    # A folder may have such a name; a file names the folder that it lies in.
    if folder.endswith(index) and files.is_file(folder, FIELD):
      folder = folder.removesuffix(index)
  if not folder.startswith('gs://') and not os.path.isdir(folder):
    raise ValueError(f'{FIELD} is {path!r}, no such folder; {_ACCEPTED}')

  index = files.read(f'{folder}/checkpoint', FIELD)
  if index is not None:
    return _open_t5x(folder, index)
  for inside in (f'{folder}/state', folder):
    metadata = files.read(f'{inside}/_METADATA', FIELD)
    if metadata is not None:
      return _open_orbax(inside, metadata)
  weights = _find_safetensors(folder)
  if weights:
    return _open_bert(weights)
  step = _newest_step(folder)
  if step:
    return open_checkpoint(f'{folder}/{step}')
  raise ValueError(
    f'{FIELD} is {path!r}, which holds no checkpoint; {_ACCEPTED}'
  )


def _newest_step(folder):
  """Returns the step folder with the largest number that was finished."""
  steps = {}
  for name in files.names(folder, 'checkpoint_', FIELD):
    # An unfinished save is called checkpoint_N.tmp-SECONDS; a finished one has
    # its index, which is written last.
    match = re.fullmatch(
      r'(checkpoint_(\d+))/(checkpoint|state/_METADATA)', name
    )
    if match:
      steps[int(match[2])] = match[1]
  return steps[max(steps)] if steps else ''


# T5X's own layout and its Orbax layout.


def _open_t5x(folder, index):
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
    leaves = _flatten(tree['optimizer']['target'])
  except (KeyError, TypeError, AttributeError):
    raise ValueError(
      f'{FIELD} {folder}: the index `checkpoint` has no optimizer/target; '
      'accepted: an index that T5X wrote'
    ) from None
  arrays, pending = {}, {}
  for name in _encoder_names(folder, leaves):
    leaf = leaves[name]
    if isinstance(leaf, np.ndarray):
      arrays[name] = Stored(leaf.shape, leaf.__getitem__)
    else:
      key = 'target.' + name.replace('/', '.')
      kvstore = files.kvstore(f'{folder}/{key}', folder=True)
      pending[name] = {'driver': 'zarr', 'kvstore': kvstore}
  return _unstack(arrays | _open_all(folder, pending))


def _open_orbax(folder, metadata):
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
        'base': files.kvstore(folder, folder=True),
        'path': found[name] + '/',
      }
    else:
      kvstore = files.kvstore(f'{folder}/{found[name]}', folder=True)
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
      context=files.CONTEXT,
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
    raise files.unreadable(f'{FIELD} {folder}:', name, error) from error

  def read(index):
    try:
      return array[index].read().result()
    except ValueError as error:
      raise files.unreadable(f'{FIELD} {folder}:', name, error) from error

  return Stored(tuple(array.shape), read)


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
    shape = stored.shape[:1] + stored.shape[2:]
    for i in range(stored.shape[1]):
      flat[f'encoder/layers_{i}/{inside}'] = Stored(shape, _layer(stored, i))
  return flat


def _layer(stored, i):
  return lambda index: stored.read((index[0], i, *index[1:]))


# Safetensors.

# Hugging Face's names of a BERT's modules, and ours.
_BERT = (
    ('embeddings.word_embeddings', 'token_embedder'),
    ('embeddings.position_embeddings', 'position_embedder'),
    ('embeddings.token_type_embeddings', 'segment_embedder'),
    ('embeddings.LayerNorm', 'embed_norm'),
    (r'encoder.layer.(\d+).attention.self.(query|key|value)',
     r'layers_\1/attention/\2'),
    (r'encoder.layer.(\d+).attention.output.dense', r'layers_\1/attention/out'),
    (r'encoder.layer.(\d+).attention.output.LayerNorm',
     r'layers_\1/attention_norm'),
    (r'encoder.layer.(\d+).intermediate.dense', r'layers_\1/wi'),
    (r'encoder.layer.(\d+).output.dense', r'layers_\1/wo'),
    (r'encoder.layer.(\d+).output.LayerNorm', r'layers_\1/mlp_norm'),
)  # fmt: skip
# Not of the encoder: the pooler and heads behind it, and a constant.
_BERT_IGNORED = re.compile(r'pooler\.|cls\.|.*position_ids$')


def _find_safetensors(folder):
  """Returns the model.safetensors in a local folder or one below, or ''."""
  if folder.startswith('gs://'):
    return ''
  top = os.path.join(folder, 'model.safetensors')
  if os.path.isfile(top):
    return top
  found = sorted(
    glob.glob(os.path.join(glob.escape(folder), '*', 'model.safetensors'))
  )
  if len(found) > 1:
    raise ValueError(
      f'{FIELD} {folder} holds {len(found)} folders with model.safetensors; '
      f'accepted: one of them, such as {os.path.dirname(found[0])}'
    )
  return found[0] if found else ''


def _open_bert(path):
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{FIELD} {path} is truncated or corrupt ({error})'
    ) from error
  arrays = {}
  for key, shape in shapes.items():
    key_in_bert = key.removeprefix('bert.')
    if _BERT_IGNORED.match(key_in_bert):
      continue
    module, _, kind = key_in_bert.rpartition('.')
    # PyTorch keeps a matrix as [fan_out, fan_in].
    transposed = len(shape) == 2 and not module.startswith('embeddings.')
    name = f'{_bert_module(module)}/{_bert_kind(module, kind)}'
    shape = shape[::-1] if transposed else shape
    arrays[name] = Stored(shape, _tensor(path, key, transposed))
  return arrays


def _bert_module(module):
  for pattern, ours in _BERT:
    match = re.fullmatch(pattern, module)
    if match:
      return match.expand(ours)
  return module.replace('.', '/')


def _bert_kind(module, kind):
  if kind != 'weight':
    return kind
  if module.endswith('LayerNorm'):
    return 'scale'
  return 'embedding' if module.endswith('_embeddings') else 'kernel'


def _tensor(path, key, transposed):
  def read(index):
    index = index[::-1] if transposed else index
    with safetensors.safe_open(path, framework='numpy') as file:
      value = file.get_slice(key)[index]
    return value.T if transposed else value

  return read
