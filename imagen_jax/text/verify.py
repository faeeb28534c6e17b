"""Every byte of a store against its manifest, every record against its key."""

from collections.abc import Callable
import hashlib
import os

from array_record.python import array_record_module
import numpy as np

from imagen_jax.text import codec
from imagen_jax.text import files
from imagen_jax.text import manifest as manifest_lib


def verify(
  path: str, report: Callable[[int, int], None] = lambda done, total: None
) -> tuple[dict, dict[str, list[str]]]:
  """Returns a store's manifest, and by shard what is wrong with it.

  Besides the two files' hashes are checked: that each record decodes, under its
  own key, in order, in the right shard; that it has a length that the store
  may hold and is finite; and the counts. One record, and the keys of one
  shard, are in memory at a time.

  Args:
    path: the store's folder.
    report: is told (shards checked, shards) after each.

  Raises:
    ValueError: where the folder holds no finished store of this machine.
  """
  if '://' in path:
    raise ValueError(
      f'--verify is {path!r}; accepted: a folder, or a bucket that is mounted '
      'as one'
    )
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
      found = _check_files(base, note)
      if not found or os.path.exists(f'{base}.array_record'):
        found += _check_records(base, shard, num_shards, note, manifest)
      if found:
        wrong[os.path.relpath(base, path)] = found
      done += 1
      report(done, total)
  return manifest, wrong


def _check_files(base, note):
  wrong = []
  for name, expected in note['sha256'].items():
    try:
      with open(os.path.join(os.path.dirname(base), name), 'rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
      wrong.append(f'{name}: {error.strerror}')
      continue
    if found != expected:
      wrong.append(f'{name}: not the bytes that were written')
  return wrong


def _check_records(base, shard, num_shards, note, manifest):
  try:
    keys = np.load(f'{base}.npy')
    reader = array_record_module.ArrayRecordReader(
      f'{base}.array_record',
      options='readahead_buffer_size:0,max_parallelism:0',
    )
    size = reader.num_records()
  except (OSError, ValueError, RuntimeError, IndexError) as error:
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
  for row, key in enumerate(keys):
    reason, length = _check_record(reader, row, key, identity)
    tokens += length
    if reason:
      bad, first = bad + 1, first or f'record {row}: {reason}'
  if bad:
    wrong.append(f'{bad} of {size} records are corrupt; {first}')
  if tokens != note['tokens'] and not bad:
    wrong.append(f'{tokens} tokens; {note["tokens"]} by the manifest')
  return wrong


def _check_record(reader, row, key, identity):
  """Returns what is wrong with a record, or '', and its tokens."""
  try:
    (record,) = reader.read([row])
    found, embed = codec.decode(
      record, identity['embed_dim'], identity['stored_dtype']
    )
  except (ValueError, RuntimeError, IndexError) as error:
    return str(error).splitlines()[0], 0
  if found != key.ljust(manifest_lib.KEY_BYTES, b'\0'):
    return 'under the key of another', len(embed)
  if not 0 < len(embed) <= identity['max_length']:
    return f'of {len(embed)} tokens', len(embed)
  if not np.isfinite(embed.astype(np.float32)).all():
    return 'not finite', len(embed)
  return '', len(embed)
