"""The shards of one part of a store, as hosts write them.

A shard's files get their names when they are whole, and its note (.json) after
them. A note is of a plan: a hash of all that the shards depend on, so that what
was written under another one is not taken for finished.
"""

import hashlib
import os

from array_record.python import array_record_module
import numpy as np

from imagen_jax import storage
from imagen_jax.text import files
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import output

_NOTES = 1024  # Notes that are read, or removed, at once.


class Part:
  """One part, of which each host writes some shards.

  Attributes:
    num_shards: of the part.
  """

  def __init__(self, path: str, number: int, num_shards: int, plan: str):
    """Nothing is read or written.

    Args:
      path: the store's folder, resolved.
      number: of the part.
      num_shards: of the part.
      plan: hash of what the shards depend on.
    """
    self.num_shards = num_shards
    self._path = path
    self._number = number
    self._plan = plan

  def _base(self, shard):
    return manifest_lib.shard_path(
      self._path, self._number, shard, self.num_shards
    )

  def notes(self, first: int, last: int) -> list[dict | None]:
    """Returns the notes of shards `first` to `last` - 1; None: not finished."""
    found = []
    for start in range(first, last, _NOTES):
      some = range(start, min(start + _NOTES, last))
      found += output.read_json([f'{self._base(s)}.json' for s in some])
    return [n if n and n['plan'] == self._plan else None for n in found]

  def write(
    self,
    shard: int,
    keys: np.ndarray,
    records: list[bytes],
    tokens: int,
    num_cut: int,
  ) -> None:
    """Writes a shard and its note.

    Args:
      shard: its number.
      keys: sorted, [n].
      records: of each key (`codec.encode`).
      tokens: in all records.
      num_cut: captions that were longer than they may be.
    """
    base = self._base(shard)
    output.remove(f'{base}.json')  # The note of an older plan.
    hashes = {}
    for suffix in ('array_record', 'npy'):
      with output.staged(f'{base}.{suffix}') as name:
        if suffix == 'npy':
          with open(name, 'wb') as file:
            np.save(file, keys)
        else:
          _write_records(name, records)
        with open(name, 'rb') as file:
          digest = hashlib.file_digest(file, 'sha256').hexdigest()
        hashes[f'{os.path.basename(base)}.{suffix}'] = digest
    note = {
      'plan': self._plan,
      'captions': len(keys),
      'tokens': tokens,
      'cut': num_cut,
      'sha256': hashes,
    }
    output.write_json(f'{base}.json', note)

  def finished(self) -> list[dict]:
    """Returns all notes.

    Raises:
      ValueError: where a shard is not finished, after all.
    """
    notes = self.notes(0, self.num_shards)
    if None in notes:
      raise ValueError(
        f'{self._base(notes.index(None))} has gone while the store was being '
        'written; run imagen-jax encode again'
      )
    return notes


def clean(path: str, number: int, notes: list[dict]) -> None:
  """Removes what is not in a part's notes: these, and what killed runs left.

  Args:
    path: the store's folder, resolved.
    number: of the part.
    notes: of all its shards, or what the manifest has kept of them.
  """
  wanted = {name for note in notes for name in note['sha256']}
  folder = os.path.dirname(manifest_lib.shard_path(path, number, 0, len(notes)))
  found = files.names(folder, 'shard-', output.FIELD)
  if found and not storage.is_bucket(folder):
    found = os.listdir(folder)  # What storage calls hidden, too.
  left = [f'{folder}/{name}' for name in set(found) - wanted]
  for start in range(0, len(left), _NOTES):
    output.remove(*left[start : start + _NOTES])


def _write_records(name, records):
  writer = array_record_module.ArrayRecordWriter(
    # Embeddings hardly compress; without it a record is one read.
    name,
    'group_size:1,uncompressed',
  )
  for record in records:
    writer.write(record)
  writer.close()
