"""A compiled training step in a file: a pod that has one does not compile.

`imagen-jax precompile --save` writes it, where there is no TPU, and `imagen-jax
train --executable` reads it, on all hosts. It is the step of one program, for
one mesh of one kind of device, by one compiler, and what it was made of is its
first line; nothing else of the file is read where that differs.

The rest is JAX's own form, a pickle: a file of strangers can do anything.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import pickle

import jax
from jax.experimental import serialize_executable

from imagen_jax import config as config_lib
from imagen_jax import storage

# Of this file's own form: one more where it changes.
_FORMAT = 1
_FIELD = '--executable'
# When a run writes what, which no step depends on; and where a rehearsal is.
_RHYTHM = (
  'train.log_every',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'train.sample_every',
  'train.num_samples',
  'train.sample_lowres',
  'train.eval_every',
  'train.num_eval_examples',
  'train.eval_logsnr',
  'train.eval_aug_level',
  'mesh.simulated_devices',
  'guard.most',
  'guard.rewind_steps',
  'guard.pass_over',
)


def fingerprint(
  config: config_lib.Config, lowered: jax.stages.Lowered, mesh
) -> dict:
  """What a compiled step depends on, as JSON has it.

  Args:
    config: of the run.
    lowered: its step, of `step.lower_step`.
    mesh: that the step is for.
  """
  first = mesh.devices.flat[0]
  versions = {
    name: importlib.metadata.version(name) for name in ('jax', 'jaxlib')
  }
  if first.platform == 'tpu':
    versions['libtpu'] = importlib.metadata.version('libtpu')
  # Which device is which part of the mesh: a program sends to them by number.
  places = [
    (device.id, getattr(device, 'coords', None)) for device in mesh.devices.flat
  ]
  return {
    'format': _FORMAT,
    **versions,
    'device': first.device_kind,
    'mesh': dict(mesh.shape),
    'places': _digest(json.dumps(places)),
    'program': _digest(lowered.as_text()),
    'settings': settings(config),
  }


def settings(config):
  """The fields that a step is made of, by path; to name what differs."""
  groups = dataclasses.asdict(config)
  groups['stage'].pop('sample')
  found = {}

  def flatten(node, path):
    if isinstance(node, dict):
      for name, value in node.items():
        flatten(value, f'{path}.{name}')
    elif path.startswith(_RHYTHM):
      return
    else:
      found[path] = list(node) if isinstance(node, tuple) else node

  for name in ('stage', 'optimizer', 'mesh', 'train', 'guard'):
    flatten(groups[name], name)
  for name in ('max_length', 'embed_dim'):
    found[f'text.{name}'] = groups['text'][name]
  return found


def _digest(text):
  return hashlib.sha256(text.encode()).hexdigest()


def save(path: str, compiled: jax.stages.Compiled, made_of: dict):
  """Writes a compiled step and its fingerprint.

  Raises:
    ValueError: where the compiler cannot write its program down.
  """
  try:
    rest = pickle.dumps(serialize_executable.serialize(compiled))
  except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'the compiled step cannot be saved in {path}: {reason}; accepted: a '
      'compiler that writes its programs down'
    ) from error
  head = {**made_of, 'sha256': hashlib.sha256(rest).hexdigest()}
  storage.Path(path).write_bytes(json.dumps(head).encode() + b'\n' + rest)


def load(path: str, made_of: dict, mesh) -> jax.stages.Compiled:
  """The compiled step of a file.

  Args:
    path: of the file; local, or gs://...
    made_of: the fingerprint of what is to be run.
    mesh: that it is to be run on.

  Raises:
    ValueError: where there is none, or it is of something else.
  """
  data = storage.read(path, _FIELD)
  if data is None:
    raise ValueError(
      f'{_FIELD} {path} is not there; accepted: a file that `imagen-jax '
      'precompile --save` wrote'
    )
  line, _, rest = data.partition(b'\n')
  head = _head(path, line)
  if different := _differences(head, made_of):
    raise ValueError(
      f'{_FIELD} {path} is of something else: {"; ".join(different)}; '
      'accepted: one that `imagen-jax precompile --save` wrote for this run'
    )
  if hashlib.sha256(rest).hexdigest() != head['sha256']:
    raise ValueError(
      f'{_FIELD} {path} is damaged: its bytes are not those that were written; '
      'accepted: the whole file'
    )
  try:
    return serialize_executable.deserialize_and_load(
      *pickle.loads(rest), execution_devices=list(mesh.devices.flat)
    )
  except Exception as error:  # Pickles of something else may raise anything.
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'{_FIELD} {path} cannot be loaded here: {reason}; accepted: one that '
      'was compiled for these devices'
    ) from error


def _head(path, line):
  try:
    head = json.loads(line)
  except ValueError:
    head = None
  needed = {'places', 'program', 'settings', 'sha256'}
  if (
    not isinstance(head, dict)
    or head.get('format') != _FORMAT
    or needed - head.keys()
  ):
    raise ValueError(
      f'{_FIELD} {path} is no compiled step; accepted: a file that '
      '`imagen-jax precompile --save` of this version wrote'
    )
  return head


def _differences(head, made_of):
  """Each difference of two fingerprints, in words."""
  found = [
    f'{name} {head.get(name)} in place of {made_of.get(name)}'
    for name in ('jax', 'jaxlib', 'libtpu', 'device', 'mesh')
    if head.get(name) != made_of.get(name)
  ]
  if found:
    return found
  if head['places'] != made_of['places']:
    return ['the devices of its mesh lie in another order']
  if head['program'] == made_of['program']:
    return []
  then, now = head['settings'], made_of['settings']
  found = [
    f'{path} {then.get(path)!r} in place of {now.get(path)!r}'
    for path in sorted({**then, **now})
    if then.get(path) != now.get(path)
  ]
  return found or ['imagen_jax was changed since: its program is another']
