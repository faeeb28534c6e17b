"""Safetensors with Hugging Face's names of a T5 or a BERT, under ours."""

import dataclasses
import glob
import json
import math
import os
import re

from imagen_jax import storage
from imagen_jax.text import files
from imagen_jax.text import safetensors_files
from imagen_jax.text import stored as stored_lib

FIELD = stored_lib.FIELD
SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'

# Patterns of Hugging Face's names, and our names. A '*' before ours marks a
# matrix, which PyTorch keeps as [fan_out, fan_in].
_T5 = (
    (r'(shared|encoder\.embed_tokens)\.weight', 'token_embedder/embedding'),
    (r'encoder\.final_layer_norm\.weight', 'encoder/encoder_norm/scale'),
    (r'encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.q\.weight',
     r'*encoder/layers_\1/attention/query/kernel'),
    (r'encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.k\.weight',
     r'*encoder/layers_\1/attention/key/kernel'),
    (r'encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.v\.weight',
     r'*encoder/layers_\1/attention/value/kernel'),
    (r'encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.o\.weight',
     r'*encoder/layers_\1/attention/out/kernel'),
    (r'encoder\.block\.(\d+)\.layer\.0\.\w+\.relative_attention_bias\.weight',
     r'*encoder/layers_\1/relpos_bias/rel_embedding'),
    (r'encoder\.block\.(\d+)\.layer\.0\.layer_norm\.weight',
     r'encoder/layers_\1/pre_attention_layer_norm/scale'),
    (r'encoder\.block\.(\d+)\.layer\.1\.layer_norm\.weight',
     r'encoder/layers_\1/pre_mlp_layer_norm/scale'),
    (r'encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.(w[io_01]+)\.weight',
     r'*encoder/layers_\1/mlp/\2/kernel'),
)  # fmt: skip
_BERT = (
    (r'embeddings\.word_embeddings\.weight', 'token_embedder/embedding'),
    (r'embeddings\.position_embeddings\.weight',
     'position_embedder/embedding'),
    (r'embeddings\.token_type_embeddings\.weight',
     'segment_embedder/embedding'),
    # The first checkpoints have TensorFlow's words, gamma and beta.
    (r'embeddings\.LayerNorm\.(?:weight|gamma)', 'embed_norm/scale'),
    (r'embeddings\.LayerNorm\.(?:bias|beta)', 'embed_norm/bias'),
    (r'encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.weight',
     r'*layers_\1/attention/\2/kernel'),
    (r'encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.bias',
     r'layers_\1/attention/\2/bias'),
    (r'encoder\.layer\.(\d+)\.attention\.output\.dense\.weight',
     r'*layers_\1/attention/out/kernel'),
    (r'encoder\.layer\.(\d+)\.attention\.output\.dense\.bias',
     r'layers_\1/attention/out/bias'),
    (r'encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(?:weight|gamma)',
     r'layers_\1/attention_norm/scale'),
    (r'encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(?:bias|beta)',
     r'layers_\1/attention_norm/bias'),
    (r'encoder\.layer\.(\d+)\.intermediate\.dense\.weight',
     r'*layers_\1/wi/kernel'),
    (r'encoder\.layer\.(\d+)\.intermediate\.dense\.bias', r'layers_\1/wi/bias'),
    (r'encoder\.layer\.(\d+)\.output\.dense\.weight', r'*layers_\1/wo/kernel'),
    (r'encoder\.layer\.(\d+)\.output\.dense\.bias', r'layers_\1/wo/bias'),
    (r'encoder\.layer\.(\d+)\.output\.LayerNorm\.(?:weight|gamma)',
     r'layers_\1/mlp_norm/scale'),
    (r'encoder\.layer\.(\d+)\.output\.LayerNorm\.(?:bias|beta)',
     r'layers_\1/mlp_norm/bias'),
)  # fmt: skip
# Not of the encoder: the decoder, the pooler, heads, and a constant.
_T5_IGNORED = re.compile(r'decoder\.|lm_head\.')
_BERT_IGNORED = re.compile(r'pooler\.|cls\.|.*position_ids$')
# Layers of the common models that have a decoder alone.
_DECODERS = re.compile(
  r'(transformer\.)?h\.\d+\.|(model\.)?(decoder\.)?(layers|block)\.\d+\.'
  r'|gpt_neox\.|decoder\.'
)
_ROWS_BYTES = 2**24  # Read at once: a disk's full speed, and little memory.


def find(folder: str) -> str:
  """Returns the single file or the index in a folder or one below, or ''.

  Raises:
    ValueError: where several folders below have one, or they lie in a bucket.
  """
  if folder.startswith('gs://'):
    if {SINGLE, INDEX} & set(files.names(folder, 'model.', FIELD)):
      raise ValueError(
        f'{FIELD} {folder} holds safetensors in a bucket; accepted: a copy on '
        "a local disk (T5X's layouts are read from buckets)"
      )
    return ''
  for name in (SINGLE, INDEX):
    if os.path.isfile(os.path.join(folder, name)):
      return os.path.join(folder, name)
  found = sorted(
    path
    for name in (SINGLE, INDEX)
    for path in glob.glob(os.path.join(glob.escape(folder), '*', name))
  )
  if len(found) > 1:
    raise ValueError(
      f'{FIELD} {folder} holds {len(found)} folders with model.safetensors; '
      f'accepted: one of them, such as {os.path.dirname(found[0])}'
    )
  return found[0] if found else ''


def open_safetensors(path: str) -> dict[str, stored_lib.Stored]:
  """Returns the encoder's arrays of a file or of an index's files.

  A T5 or a BERT is told by its names; names that belong to neither stay as
  they are, and will not fit any encoder.

  Raises:
    ValueError: where a file is missing, truncated or corrupt, or there are
      parameters of a decoder alone.
  """
  found = _tensors(path)
  if any(
    '.SelfAttention.' in name or name == 'shared.weight' for name in found
  ):
    return _open_t5(path, found)
  bare = {name.removeprefix('bert.'): tensor for name, tensor in found.items()}
  renamed = _renamed(bare, _BERT, _BERT_IGNORED)
  known = {ours for ours, _, _ in renamed}
  if not any(name.startswith('layers_') for name in known) and any(
    _DECODERS.match(name) for name in bare
  ):
    raise _decoder_alone(path)
  return {ours: _stored(path, t, flip) for ours, t, flip in renamed}


def _tensors(path):
  """Returns the tensors of a single file, or of all that an index names."""
  if path.endswith('.json'):
    folder = os.path.dirname(path)
    try:
      with open(path) as file:
        places = json.load(file)['weight_map']
      names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(
        f'{FIELD} {path} is truncated or corrupt ({error})'
      ) from error
    missing = [n for n in names if not os.path.isfile(f'{folder}/{n}')]
    if missing:
      raise ValueError(
        f'{FIELD} {path} names files that are missing: {", ".join(missing)}'
      )
    found = {}
    for name in names:
      found |= _tensors_of(f'{folder}/{name}')
    lost = [name for name in places if name not in found]
    if lost:
      raise ValueError(
        f'{FIELD} {path} names {len(lost)} tensors that its files lack, such '
        f'as {lost[0]}'
      )
    return found
  return _tensors_of(path)


def _tensors_of(path):
  try:
    return safetensors_files.tensors(path)
  except (ValueError, OSError) as error:
    raise ValueError(
      f'{FIELD} {path} is truncated or corrupt ({error})'
    ) from error


def _decoder_alone(path):
  return ValueError(
    f'{FIELD} {path} is of a decoder alone; accepted: a checkpoint with an '
    'encoder'
  )


def _renamed(tensors, patterns, ignored):
  """Returns [(our name, tensor, whether transposed)]."""
  renamed = []
  for name, tensor in tensors.items():
    if ignored.match(name):
      continue
    ours = name.replace('.', '/')
    for pattern, template in patterns:
      match = re.fullmatch(pattern, name)
      if match:
        ours = match.expand(template)
        break
    renamed.append((ours.removeprefix('*'), tensor, ours.startswith('*')))
  return renamed


def _open_t5(path, tensors):
  if not any(name.startswith('encoder.block.') for name in tensors):
    if any(name.startswith('decoder.block.') for name in tensors):
      raise _decoder_alone(path)
    raise ValueError(
      f'{FIELD} {path} holds no parameters of an encoder; accepted: a '
      'checkpoint with an encoder'
    )
  arrays = {}
  renamed = _renamed(tensors, _T5, _T5_IGNORED)
  tables = [t for ours, t, _ in renamed if ours.endswith('/rel_embedding')]
  # A table in every layer is umT5, whose kernels have their heads apart.
  apart = len(tables) > 1
  for ours, tensor, flip in renamed:
    if apart and '/attention/' in ours:
      arrays[ours] = _split_heads(path, ours, tensor, tables[0].shape[-1])
    else:
      if not apart:
        ours = ours.replace('layers_0/relpos_bias', 'relpos_bias')
      arrays[ours] = _stored(path, tensor, flip)
  return arrays


def _split_heads(path, name, tensor, heads):
  """A kernel as [E, H, K], or, of the way out, as [H, K, E]."""
  if (
    len(tensor.shape) != 2 or tensor.shape[name.endswith('out/kernel')] % heads
  ):
    return _stored(path, tensor, True)  # Which fits no encoder.
  if name.endswith('out/kernel'):
    embed, joined = tensor.shape
    width = joined // heads
    split = dataclasses.replace(tensor, shape=(embed, heads, width))
    return _stored(path, split, True, order=(1, 2, 0))
  joined, embed = tensor.shape
  split = dataclasses.replace(tensor, shape=(heads, joined // heads, embed))
  return _stored(path, split, True, order=(2, 0, 1))


def _stored(path, tensor, flip, order=(1, 0)):
  """The tensor, its axes taken in `order` where `flip` says so."""
  shape = tensor.shape
  row_bytes = math.prod(shape[1:]) * tensor.dtype.itemsize
  rows = max(1, _ROWS_BYTES // max(row_bytes, 1))
  chunks = (min(rows, shape[0]), *shape[1:]) if shape else ()

  def read(index):
    source = index
    if flip:
      source = tuple(index[order.index(axis)] for axis in range(len(order)))
    try:
      value = tensor.read(source)
    except OSError as error:
      raise storage.refusal(FIELD, path, 'read', error) from error
    return value.transpose(order) if flip else value

  if flip and len(shape) == len(order):
    shape = tuple(shape[axis] for axis in order)
    chunks = tuple(chunks[axis] for axis in order)
  return stored_lib.Stored(shape, tensor.dtype, chunks, read)
