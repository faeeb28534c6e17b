"""The golden T5X checkpoints, which are packed in `tests/data/`."""

import pathlib
import tarfile

from flax.core import meta
import jax

from imagen_jax import sharding
from imagen_jax.text import encoders

_ARCHIVE = pathlib.Path(__file__).parent / 'data' / 't5x-tiny.tar.gz'


def unpack(folder, only=''):
  """Unpacks those whose names start with `only`; returns where they lie."""
  with tarfile.open(_ARCHIVE) as archive:
    # An archive of our own needs no filter, which Python 3.12 asks for and
    # 3.11 has not before 3.11.4.
    archive.extraction_filter = lambda member, path: member
    members = [
      member
      for member in archive.getmembers()
      if member.name.startswith(f't5x-tiny/{only}')
    ]
    archive.extractall(folder, members)
  return pathlib.Path(folder) / 't5x-tiny'


def abstract(row, mesh=None):
  boxed = encoders.abstract_params(row)
  leaves = meta.unbox(boxed)
  if mesh is None:
    return leaves
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    leaves,
    sharding.param_shardings(boxed, mesh),
  )
