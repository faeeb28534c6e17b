"""The store's manifest, its files' names, and the keys of captions."""

import hashlib
import json

import numpy as np

from imagen_jax import storage
from imagen_jax.text import files

FIELD = 'text.store'
FORMAT = 3
_SEAL = 'sha256'  # Of the rest of the manifest.
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
  prefix = np.ascontiguousarray(keys).view('>u4')[:: KEY_BYTES // 4]
  return (prefix.astype(np.int64) * num_shards) >> 32


def shard_path(path: str, part: int, shard: int, num_shards: int) -> str:
  """Returns a shard's path, less the suffix of each of its files."""
  name = f'part-{part:03d}/shard-{shard:06d}-of-{num_shards:06d}'
  return f'{path}/{name}'


def read(path: str) -> dict | None:
  """Returns a store's manifest, or None where it has none.

  Raises:
    ValueError: where there is one that is not of this format, or the storage
      cannot be read.
  """
  contents = storage.read(f'{files.resolve(path, FIELD)}/{MANIFEST}', FIELD)
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
  if manifest != sealed(manifest):
    raise ValueError(
      f'{FIELD} {path}: {MANIFEST} is not what was written; accepted: a store '
      'as imagen-jax encode has left it'
    )
  return manifest


def sealed(manifest: dict) -> dict:
  """Returns a manifest with its own hash in it."""
  rest = {name: value for name, value in manifest.items() if name != _SEAL}
  said = json.dumps(rest, sort_keys=True).encode()
  return {**rest, _SEAL: hashlib.sha256(said).hexdigest()}


def extended(
  manifest: dict,
  sources: list[dict],
  counts: dict,
  notes: list[dict],
  rows: int,
) -> dict:
  """Returns a manifest with one part more.

  Args:
    manifest: as it was.
    sources: name, fingerprint and records of each that was scanned.
    counts: mentions, and empty captions, in the sources.
    notes: of the part's shards (`part.Part.write`). Sources whose captions the
      store had already have none, and make no part.
    rows: captions computed at once by a device, `text.rows`. Another number
      rounds in another way; it is told, and not held against a config, as
      training from the store computes no embeddings.
  """
  part = {
    'rows': rows,
    'mentions': counts['mentions'],
    'empty': counts['empty'],
    'cut': sum(note['cut'] for note in notes),
    'shards': [
      {name: note[name] for name in ('captions', 'tokens', 'sha256')}
      for note in notes
    ],
  }
  parts = manifest['parts'] + ([part] if notes else [])
  every = [shard for part in parts for shard in part['shards']]
  found = {
    **manifest,
    'sources': manifest['sources'] + sources,
    'num_captions': sum(shard['captions'] for shard in every),
    'num_tokens': sum(shard['tokens'] for shard in every),
    'num_cut': sum(part['cut'] for part in parts),
    'parts': parts,
  }
  return sealed(found)


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
