"""The layouts of checkpoints, all opened as {parameter name: stored array}.

Opening reads names and shapes alone. A stored array reads the slices that it
is asked for, so that a host never holds more than its own shards. Names are
those of the modules in `imagen_jax/models/`. What lies at a path tells its
layout; nobody has to name it.
"""

import os
import re

from imagen_jax import storage
from imagen_jax.text import files
from imagen_jax.text import huggingface
from imagen_jax.text import stored as stored_lib
from imagen_jax.text import t5x_layouts

FIELD = stored_lib.FIELD
Stored = stored_lib.Stored
_ACCEPTED = (
  'accepted: a T5X checkpoint (its parent, its step folder or its index), '
  'or a folder with model.safetensors or model.safetensors.index.json'
)
# A path may name one of these in the place of its folder.
_FILES = (
  '/checkpoint',
  '/state/_METADATA',
  f'/{huggingface.SINGLE}',
  f'/{huggingface.INDEX}',
)


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
  for index in _FILES:
    # A folder may have such a name; a file names the folder that it lies in.
    if folder.endswith(index) and files.is_file(folder, FIELD):
      folder = folder.removesuffix(index)
  if not folder.startswith('gs://') and not os.path.isdir(folder):
    raise ValueError(f'{FIELD} is {path!r}, no such folder; {_ACCEPTED}')

  index = storage.read(f'{folder}/checkpoint', FIELD)
  if index is not None:
    return t5x_layouts.open_msgpack(folder, index)
  for inside in (f'{folder}/state', folder):
    metadata = storage.read(f'{inside}/_METADATA', FIELD)
    if metadata is not None:
      return t5x_layouts.open_orbax(inside, metadata)
  weights = huggingface.find(folder)
  if weights:
    return huggingface.open_safetensors(weights)
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
