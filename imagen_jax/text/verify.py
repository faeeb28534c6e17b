"""Every byte of a store against its manifest, every record against its key."""

from collections.abc import Callable
import hashlib
import os

from array_record.python import array_record_module
import numpy as np

from imagen_jax import storage
from imagen_jax.text import codec
from imagen_jax.text import files
from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import open_shards

_RECORDS = 64  # Read at once, so that a bucket is not asked for each.


def verify(
  path: str, report: Callable[[int, int], None] = lambda done, total: None
) -> tuple[dict, dict[str, list[str]]]:
  """Returns a store's manifest, and by shard what is wrong with it.

  Besides the two files' hashes are checked: that each record decodes, under its
  own key, in order, in the right shard; that it has a length that the store
  may hold and is finite; and the counts. Some records, and the keys of one
  shard, are in memory at a time.

  Args:
    path: the store's folder, or gs://...
    report: is told (shards checked, shards) after each.

  Raises:
    ValueError: where the folder holds no finished store, or storage cannot be
      reached.
  """
  path = files.resolve(path, manifest_lib.FIELD)
  manifest = manifest_lib.read(path)
  if manifest is None:
    raise ValueError(
      f'{path} has no {manifest_lib.MANIFEST}: not a store, or one that was '
      'not finished; run imagen-jax encode'
    )
  total = sum(len(part['shards']) for part in manifest['parts'])
  done, wrong = 0, {}
  for number, part in enumerate(manifest['parts']):
    num_shards = len(part['shards'])
    for shard, note in enumerate(part['shards']):
      base = manifest_lib.shard_path(path, number, shard, num_shards)
      found, missing = _check_files(base, note)
      if not missing:
        found += _check_records(base, shard, num_shards, note, manifest)
      if found:
        wrong[base.removeprefix(f'{path}/')] = found
      done += 1
      report(done, total)
  return manifest, wrong


def _check_files(base, note):
  """Returns what is wrong with the files, and whether one is missing."""
  wrong, missing = [], False
  for name, expected in note['sha256'].items():
    try:
      found = _digest(f'{os.path.dirname(base)}/{name}')
    except OSError as error:  # Such as of a disk that fails.
      wrong.append(f'{name}: {error.strerror}')
      continue
    if found is None:
      wrong.append(f'{name}: missing')
      missing = True
    elif found != expected:
      wrong.append(f'{name}: not the bytes that were written')
  return wrong, missing


def _digest(path):
  """Returns the hash of a file, or None where there is none.

  Of a bucket the whole file is in memory, a shard of about a GiB at most.
  """
  if storage.is_bucket(path):
    contents = storage.read(path, manifest_lib.FIELD)
    return None if contents is None else hashlib.sha256(contents).hexdigest()
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except FileNotFoundError:
    return None


def _check_records(base, shard, num_shards, note, manifest):
  try:
    keys = open_shards.load_keys(f'{base}.npy', in_memory=True)
    reader = array_record_module.ArrayRecordReader(
      f'{base}.array_record',
      options='readahead_buffer_size:0,max_parallelism:0',
    )
    size = reader.num_records()
  except open_shards.UNREADABLE as error:
    return [f'cannot be opened ({str(error).splitlines()[0]})']
  if (
    keys.dtype != manifest_lib.KEY or not size == len(keys) == note['captions']
  ):
    return [
      f'{size} records, {len(keys)} keys; {note["captions"]} by the manifest'
    ]
  wrong = []
  if (keys[1:] <= keys[:-1]).any():
    wrong.append('keys out of order')
  if (manifest_lib.shards_of(keys, num_shards) != shard).any():
    wrong.append('keys of another shard')
  identity = manifest['identity']
  tokens, bad, first = 0, 0, None
  for row, (key, record) in enumerate(zip(keys, _records(reader, size))):
    reason, length = _check_record(record, key, identity)
    tokens += length
    if reason:
      bad, first = bad + 1, first or f'record {row}: {reason}'
  if bad:
    wrong.append(f'{bad} of {size} records are corrupt; {first}')
  if tokens != note['tokens'] and not bad:
    wrong.append(f'{tokens} tokens; {note["tokens"]} by the manifest')
  return wrong


def _records(reader, size):
  """Yields records, some at a time; for one that cannot be read, the error."""
  for start in range(0, size, _RECORDS):
    rows = range(start, min(start + _RECORDS, size))
    try:
      yield from reader.read(list(rows))
    except open_shards.UNREADABLE:
      for row in rows:
        try:
          yield from reader.read([row])
        except open_shards.UNREADABLE as error:
          yield error


def _check_record(record, key, identity):
  """Returns what is wrong with a record, or '', and its tokens."""
  try:
    if isinstance(record, Exception):
      raise record
    found, embed = codec.decode(
      record, identity['embed_dim'], identity['stored_dtype']
    )
  except open_shards.UNREADABLE as error:
    return str(error).splitlines()[0], 0
  if found != key.ljust(manifest_lib.KEY_BYTES, b'\0'):
    return 'under the key of another', len(embed)
  if not 0 < len(embed) <= identity['max_length']:
    return f'of {len(embed)} tokens', len(embed)
  if not np.isfinite(embed.astype(np.float32)).all():
    return 'not finite', len(embed)
  return '', len(embed)
