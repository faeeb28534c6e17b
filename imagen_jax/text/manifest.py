"""The store's manifest, its files' names, and the keys of captions."""

import hashlib
import json
import os

import numpy as np

from imagen_jax.text import files

FIELD = 'text.store'
FORMAT = 2
MANIFEST = 'manifest.json'
KEY_BYTES = 16
KEY = np.dtype(f'S{KEY_BYTES}')


def keys_of(captions: list[str]) -> np.ndarray:
  """Returns the captions' keys, [n] of 16 bytes; a hash of their UTF-8."""
  digests = (
    hashlib.blake2b(caption.encode(), digest_size=KEY_BYTES).digest()
    for caption in captions
  )
  return np.frombuffer(b''.join(digests), KEY)


def shards_of(keys: np.ndarray, num_shards: int) -> np.ndarray:
  """Returns the shard of each key, int64 [n]; sorted keys have sorted ones."""
  prefix = np.ascontiguousarray(keys).view('>u4').reshape(len(keys), -1)[:, 0]
  return (prefix.astype(np.int64) * num_shards) >> 32


def first_key(shard: int, num_shards: int) -> bytes:
  """Returns the least key that `shard` may hold; of one too many, the last."""
  prefix = -(-(shard << 32) // num_shards)
  return min(prefix, 2**32 - 1).to_bytes(4, 'big')


def shard_path(path: str, part: int, shard: int, num_shards: int) -> str:
  """Returns a shard's path, less the suffix of each of its files."""
  name = f'part-{part:03d}/shard-{shard:06d}-of-{num_shards:06d}'
  return os.path.join(path, name)


def read(path: str) -> dict | None:
  """Returns a store's manifest, or None where it has none.

  Raises:
    ValueError: where there is one that is not of this format, or the storage
      cannot be read.
  """
  contents = files.read(f'{files.resolve(path, FIELD)}/{MANIFEST}', FIELD)
  if contents is None:
    return None
  try:
    manifest = json.loads(contents)
  except ValueError as error:
    raise ValueError(
      f'{FIELD} {path}: {MANIFEST} is truncated or corrupt'
    ) from error
  found = manifest.get('format') if isinstance(manifest, dict) else None
  if found != FORMAT:
    raise ValueError(
      f'{FIELD} {path} is of format {found!r}; accepted: {FORMAT}; run '
      'imagen-jax encode into another folder'
    )
  return manifest


def check_identity(path: str, manifest: dict, identity: dict) -> None:
  """Raises ValueError, with the differing fields, unless identities agree."""
  stored = manifest['identity']
  differences = [
    f'{name} is {stored.get(name)!r} in the store, {value!r} in the config'
    for name, value in identity.items()
    if stored.get(name) != value
  ]
  if differences:
    raise ValueError(
      f'{FIELD} {path} holds other embeddings than this config asks for: '
      f'{"; ".join(differences)}; accepted: a store that imagen-jax encode '
      'wrote with this config'
    )


def publish(name: str) -> None:
  """Gives the finished file `name`.tmp its name, safe on disk first."""
  with open(f'{name}.tmp', 'rb') as file:
    os.fsync(file.fileno())
  os.replace(f'{name}.tmp', name)


def write_json(name: str, value) -> None:
  """Writes a file of JSON, whole or not at all."""
  with open(f'{name}.tmp', 'w', encoding='utf-8') as file:
    json.dump(value, file, indent=1)
    file.write('\n')
  publish(name)


def read_json(name: str):
  """Returns what a file of JSON holds, or None where there is none."""
  try:
    with open(name, encoding='utf-8') as file:
      return json.load(file)
  except FileNotFoundError:
    return None
