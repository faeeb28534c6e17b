"""The parts of a state that a checkpoint holds, and how they are written."""

import collections
import dataclasses

import jax
import numpy as np
import orbax.checkpoint as ocp

from imagen_jax.train import digest
from imagen_jax.train import state as state_lib

_SLICE_BYTES = 1 << 20


def digests_of(state: state_lib.TrainState, data: dict) -> dict[str, str]:
  """Digests of the parts of a checkpoint, by name; to be asked of all hosts."""
  found = {
    name: digest.joined(digest.of_arrays(part))
    for name, part in of(state).items()
  }
  return {**found, 'data': digest.of_json(data)}


def of(state):
  """The parts of a state by name; without further averages where it has none.

  As checkpoints had it before there were any. What judges steps is part of the
  position in the data.
  """
  # Ordered, as JAX would sort a plain dict, and its files not be those of old.
  parts = collections.OrderedDict(
    (f.name, getattr(state, f.name)) for f in dataclasses.fields(state)
  )
  parts.pop('watch', None)
  if not parts.get('ema_powers', True):
    del parts['ema_powers']
  return parts


def handler():
  """Reads and writes a pytree of arrays.

  Where devices hold copies of an array, each writes a slice of it. To cut the
  slices is a computation for each array and device, during which training
  waits: it pays for large arrays alone.
  """
  arrays = ocp.type_handlers.ArrayHandler(
    min_slice_bytes_for_replica_parallel=_SLICE_BYTES
  )
  return ocp.PyTreeCheckpointHandler(
    type_handler_registry=ocp.type_handlers.create_type_handler_registry(
      (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
  )
