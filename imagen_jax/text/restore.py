"""A checkpoint's arrays, straight into the shardings of a parameter tree."""

from concurrent import futures
import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.text import layouts

# Arrays read side by side. Each holds its slices in host memory until they are
# on the device, so that a few at a time bound that memory.
_PARALLEL_READS = 4
_LISTED = 6  # Names that an error lists of each kind of misfit.
_SMALL = 2**16  # Elements of an array that a fingerprint reads whole.


def restore_encoder(checkpoint: str, abstract, *, name: str = 'the encoder'):
  """Returns the parameters in a checkpoint, cast to `abstract`'s dtypes.

  Args:
    checkpoint: what `layouts.open_checkpoint` opens.
    abstract: tree of `jax.ShapeDtypeStruct`. A leaf with a sharding is made in
      it: every host reads the slices of its own devices, and each of them
      once. One without comes whole onto the default device.
    name: of the encoder, for errors.

  Raises:
    ValueError: where the checkpoint does not fit (with what is missing, extra
      or of another shape) or cannot be read.
  """
  stored = layouts.open_checkpoint(checkpoint)
  leaves, structure = jax.tree.flatten_with_path(abstract)
  wanted = {
    '/'.join(str(key.key) for key in path): leaf for path, leaf in leaves
  }
  _check_fit(checkpoint, name, stored, wanted)
  with futures.ThreadPoolExecutor(_PARALLEL_READS) as pool:
    arrays = list(
      pool.map(
        lambda item: _make_array(stored[item[0]], item[1]), wanted.items()
      )
    )
  return jax.tree.unflatten(structure, arrays)


def _check_fit(checkpoint, name, stored, wanted):
  """Raises ValueError unless names and shapes agree."""
  shapes = [
    f'{key} ({list(stored[key].shape)}, not {list(leaf.shape)})'
    for key, leaf in wanted.items()
    if key in stored and stored[key].shape != leaf.shape
  ]
  misfits = {
    'missing': [key for key in wanted if key not in stored],
    'extra': [key for key in stored if key not in wanted],
    'of another shape': shapes,
  }
  found = [
    f'{len(keys)} {kind}: {_listing(keys)}'
    for kind, keys in misfits.items()
    if keys
  ]
  if found:
    raise ValueError(
      f'text.checkpoint {checkpoint} does not fit text.encoder {name!r}: '
      + '; '.join(found)
    )


def _listing(keys):
  more = len(keys) - _LISTED
  listed = ', '.join(keys[:_LISTED])
  return listed + (f' and {more} more' if more > 0 else '')


def _make_array(stored, leaf):
  if getattr(leaf, 'sharding', None) is None:
    whole = stored.read((slice(None),) * len(leaf.shape))
    return jnp.asarray(np.asarray(whole).astype(leaf.dtype))
  read = {}  # By slice: devices that hold copies share one read.

  def slice_of(index):
    key = tuple((part.start, part.stop) for part in index)
    if key not in read:
      read[key] = np.asarray(stored.read(index)).astype(leaf.dtype)
    return read[key]

  return jax.make_array_from_callback(leaf.shape, leaf.sharding, slice_of)


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
