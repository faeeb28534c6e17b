"""Exported stages: weights as safetensors, config, manifest of hashes."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
from safetensors import numpy as safetensors

import imagen_jax
from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax import storage
from imagen_jax.train import checkpoint
from imagen_jax.train import damage
from imagen_jax.train import digest
from imagen_jax.train import posthoc
from imagen_jax.train import state

MANIFEST_FILE = 'manifest.json'
CONFIG_FILE = 'config.json'
# A file of weights is about this large: no host need hold all of a stage.
SHARD_BYTES = 1 << 30
# What --ema may be: part of a state, and its name in a manifest.
_PARTS = {'average': ('ema_params', 'ema'), 'raw': ('params', 'raw')}


@dataclasses.dataclass(frozen=True)
class Stage:
  """An exported stage, loaded.

  Attributes:
    stage: its config.
    text: the config of the text encoder that it was trained with.
    text_identity: of that encoder (`text/identity.py`), which tells another
      one at the place that `text` names; None in an export before 0.1.0.
    params: its network's, averaged or raw, NumPy arrays in nested dicts.
    step: updates that made them.
  """

  stage: config_lib.StageConfig
  text: config_lib.TextConfig
  params: dict
  step: int
  text_identity: dict | None


def export_weights(
  workdir: str,
  out: str,
  *,
  step: int | None = None,
  ema: str = 'average',
  shard_bytes=SHARD_BYTES,
) -> dict:
  """Writes weights of a checkpoint to the folder `out`.

  Arrays are read and written a file's worth at a time. The manifest comes
  last, so that an export that was cut short is not taken for a whole one.

  Args:
    workdir: of the run.
    out: a new folder, or one that holds an export, which is replaced.
    step: of the checkpoint; the newest where None.
    ema: 'average' for the EMA weights, 'raw' for those that are trained.
    shard_bytes: about how large a file of weights becomes.

  Returns:
    The manifest.

  Raises:
    ValueError: where there is no such checkpoint, or it is damaged.
  """
  _check_out(out)
  part, kind = _PARTS[ema]
  with checkpoint.Checkpointer(workdir, create=False) as checkpointer:
    steps = checkpointer.steps()
    step = step if step is not None else (steps[-1] if steps else None)
    if step not in steps:
      raise ValueError(
        f'--workdir {workdir} has no checkpoint'
        f'{"" if step is None else f" of step {step}"}; accepted: '
        f'{", ".join(map(str, steps)) or "a workdir that has one"}'
      )
    said = checkpointer.said(step)
    digests = {}

    def read(names):
      arrays = checkpointer.restore_some(step, part, names)
      digests.update(digest.of_arrays(arrays))
      return arrays

    shapes = checkpointer.shapes(step, part)
    text, files = _write_files(out, said, shapes, read, shard_bytes)
    said.check({part: digest.joined(digests)})
  return _write_manifest(out, said, text, files, {'weights': kind})


def export_length(
  workdir: str,
  out: str,
  *,
  length: float,
  step: int | None = None,
  shard_bytes=SHARD_BYTES,
) -> dict:
  """Writes an average of any length, made of a run's snapshots.

  Args:
    workdir: of the run.
    out: as of `export_weights`.
    length: of the average; see `train/power_ema.py`.
    step: of a snapshot, at which the average is taken; None is the newest.
    shard_bytes: as of `export_weights`.

  Returns:
    The manifest.

  Raises:
    ValueError: where the length is none, there is no such snapshot, or one is
      damaged.
  """
  if not 0 < length <= config_lib.LONGEST_EMA:
    raise ValueError(
      f'--ema-length is {length}; accepted: above 0, to '
      f'{config_lib.LONGEST_EMA}, which weighs all of a run alike'
    )
  _check_out(out)
  try:
    with posthoc.Average(workdir, length, step) as average:
      shapes, said = average.shapes(), average.said
      text, files = _write_files(out, said, shapes, average.read, shard_bytes)
      average.check()
  except damage.DamagedError as error:
    folder = storage.Path(workdir) / checkpoint.SNAPSHOTS
    raise ValueError(
      f'{error}; it is a snapshot in {folder}; accepted: snapshots that are '
      'sound, so remove this one to do without it'
    ) from None
  about = {
    'weights': 'power average',
    'ema_length': length,
    'snapshots': average.num_snapshots,
    'profile_error': average.error,
  }
  return _write_manifest(out, said, text, files, about)


def _check_out(out):
  """Raises ValueError where an export may not be written to the folder."""
  storage.check_writable(out, '--out')
  out = storage.Path(out)
  if out.exists() and not (out / CONFIG_FILE).exists() and any(out.iterdir()):
    raise ValueError(
      f'--out {out} holds something else; accepted: a new folder, or one '
      'with an export, which is replaced'
    )


def _write_files(out, said, shapes, read, shard_bytes):
  """Writes config and weights; returns the config, and what the files are."""
  out = storage.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  (out / MANIFEST_FILE).unlink(missing_ok=True)
  # Next, as it marks the folder as one that an export may replace.
  text = config_lib.to_json(said.config)
  (out / CONFIG_FILE).write_text(text)
  for old in out.glob('weights-*.safetensors'):
    old.unlink()
  files = {}
  shards = _shards(shapes, shard_bytes)
  for number, names in enumerate(shards, 1):
    arrays = read(names)
    name = f'weights-{number:05d}-of-{len(shards):05d}.safetensors'
    blob = safetensors.save(arrays)
    (out / name).write_bytes(blob)
    files[name] = {
      'sha256': hashlib.sha256(blob).hexdigest(),
      'bytes': len(blob),
      'arrays': list(arrays),
    }
  return text, files


def _write_manifest(out, said, text, files, about):
  out = storage.Path(out)
  manifest = {
    'imagen_jax': imagen_jax.__version__,
    'stage': said.config.stage.name,
    'step': said.step,
    **about,
    'text_identity': said.identity,
    'config_sha256': hashlib.sha256(text.encode()).hexdigest(),
    'files': files,
  }
  beside = out / f'{MANIFEST_FILE}.tmp'
  beside.write_text(json.dumps(manifest, indent=2) + '\n')
  beside.replace(out / MANIFEST_FILE)
  return manifest


def _shards(shapes, shard_bytes):
  """Names of arrays, in groups of about `shard_bytes`."""
  groups, size = [[]], 0
  for name, leaf in shapes.items():
    num_bytes = int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
    if groups[-1] and size + num_bytes > shard_bytes:
      groups.append([])
      size = 0
    groups[-1].append(name)
    size += num_bytes
  return groups


def load_weights(folder: str) -> Stage:
  """Loads an exported stage, its hashes checked.

  Raises:
    ValueError: where the folder is no whole export, or a file has changed.
  """
  folder = storage.Path(folder)
  path = folder / MANIFEST_FILE
  found = storage.read(path, '--weights')
  if found is None:
    raise ValueError(
      f'--weights {folder} has no {MANIFEST_FILE}; accepted: a folder that '
      '`imagen-jax export` has finished'
    )
  try:
    manifest = json.loads(found)
    step, config_hash = manifest['step'], manifest['config_sha256']
    hashes = {name: e['sha256'] for name, e in manifest['files'].items()}
    identity = manifest.get('text_identity')
    identity = None if identity is None else dict(identity)
  except (ValueError, KeyError, TypeError):
    raise ValueError(f'{path} is broken; export it again') from None
  text = _checked(folder / CONFIG_FILE, config_hash).decode()
  config = config_lib.from_json(text)
  flat = {}
  for name, sha256 in hashes.items():
    flat.update(safetensors.load(_checked(folder / name, sha256)))
  _check_complete(folder, flat, config)
  return Stage(
    stage=config.stage,
    text=config.text,
    params=unflatten(flat),
    step=step,
    text_identity=identity,
  )


def _check_complete(folder, flat, config):
  """Raises ValueError unless `flat` has all arrays of the config's network."""
  wanted = {
    name: leaf.shape
    for name, leaf in flatten(
      sharding.unbox(state.abstract_params(config))
    ).items()
  }
  found = {name: leaf.shape for name, leaf in flat.items()}
  if found != wanted:
    wrong = [n for n in wanted | found if wanted.get(n) != found.get(n)]
    raise ValueError(
      f'--weights {folder} does not hold the network of its config: '
      f'{len(wrong)} arrays differ, {wrong[0]} is {found.get(wrong[0])}, '
      f'the network has {wanted.get(wrong[0])}; export it again'
    )


def _checked(path, sha256):
  blob = storage.read(path, '--weights')
  if blob is None:
    raise ValueError(f'{path} is missing; accepted: what the manifest lists')
  if hashlib.sha256(blob).hexdigest() != sha256:
    raise ValueError(
      f'{path} is not what the manifest has the hash of; export it again'
    )
  return blob


def flatten(tree) -> dict:
  """Nested dicts as one dict, names joined by '/'."""
  leaves = jax.tree.leaves_with_path(tree)
  return {
    jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in leaves
  }


def unflatten(flat: dict) -> dict:
  """The inverse of `flatten`."""
  tree = {}
  for name, leaf in flat.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree
