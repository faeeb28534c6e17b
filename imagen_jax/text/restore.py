"""A checkpoint's arrays, straight into the shardings of a parameter tree."""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.text import layouts
from imagen_jax.text import shards

_SMALL = 2**16  # Elements of an array that a fingerprint reads whole.
_TOKENS = 'token_embedder/embedding'


def restore_encoder(checkpoint: str, abstract, *, name: str = 'the encoder'):
  """Returns the parameters in a checkpoint, cast to `abstract`'s dtypes.

  Args:
    checkpoint: what `layouts.open_checkpoint` opens.
    abstract: tree of `jax.ShapeDtypeStruct`. A leaf with a sharding is made in
      it: every host reads what its own devices hold, once, in pieces
      (`shards.load`). One without comes whole onto the default device.
    name: of the encoder, for errors.

  Raises:
    ValueError: where the checkpoint does not fit (with what is missing, extra
      or of another shape or type) or cannot be read.
  """
  stored = layouts.open_checkpoint(checkpoint)
  leaves, structure = jax.tree.flatten_with_path(abstract)
  wanted = {
    '/'.join(str(key.key) for key in path): leaf for path, leaf in leaves
  }
  _check_fit(checkpoint, name, stored, wanted)
  arrays = shards.load(stored, wanted)
  return jax.tree.unflatten(structure, [arrays[key] for key in wanted])


def _check_fit(checkpoint, name, stored, wanted):
  """Raises ValueError unless names, shapes and types agree."""
  shapes = [
    f'{key} ({list(stored[key].shape)}, not {list(leaf.shape)})'
    for key, leaf in wanted.items()
    if key in stored and stored[key].shape != leaf.shape
  ]
  # Quantised weights, or T5X's version 2, whose bfloat16 posed as integers.
  types = [
    f'{key} ({stored[key].dtype}, not floating)'
    for key in wanted
    if key in stored and not jnp.issubdtype(stored[key].dtype, jnp.floating)
  ]
  misfits = {
    'missing': [key for key in wanted if key not in stored],
    'extra': [key for key in stored if key not in wanted],
    'of another shape': shapes,
    'of another type': types,
  }
  found = [
    f'{len(keys)} {kind}: {", ".join(keys)}'
    for kind, keys in misfits.items()
    if keys
  ]
  if _TOKENS in stored and _TOKENS in wanted:
    rows, others = stored[_TOKENS].shape[0], wanted[_TOKENS].shape[0]
    if rows != others:
      found.append(f'the vocabulary is another: {rows} rows, not {others}')
  if found:
    raise ValueError(
      f'text.checkpoint {checkpoint} does not fit text.encoder {name!r}: '
      + '; '.join(found)
    )


def fingerprint(checkpoint: str) -> str:
  """Returns a short hash of a checkpoint's encoder, whatever its layout.

  It covers every name and shape, the values of all small arrays (norms, biases
  and tables of position biases, which any training moves) and the first row
  of each kernel of the first layer: enough to tell models apart for the price
  of a few chunks. The same weights in another layout or chunking, or widened
  to float32, have the same fingerprint.

  Raises:
    ValueError: where the checkpoint cannot be read.
  """
  digest = hashlib.sha256()
  for name, stored in sorted(layouts.open_checkpoint(checkpoint).items()):
    digest.update(f'{name} {list(stored.shape)}\n'.encode())
    layer = re.search(r'layers_(\d+)/', name)
    index = (slice(None),) * len(stored.shape)
    if np.prod(stored.shape) > _SMALL:
      if layer is None or layer[1] != '0':
        continue
      index = (slice(0, 1), *index[1:])
    value = np.asarray(stored.read(index)).astype(np.float32)
    digest.update(np.ascontiguousarray(value).tobytes())
  return digest.hexdigest()[:32]
