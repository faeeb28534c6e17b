"""Where a task's shards and their index lie."""

import dataclasses
import hashlib

from imagen_jax import config as config_lib
from imagen_jax.shards import files
from imagen_jax.shards import finding
from imagen_jax.shards import lines
from imagen_jax.shards import patterns

# Of the kinds that have an index: what the names of their shards end with.
ENDINGS = {
  'arrayrecord': ('.array_record', '.arrayrecord'),
  'tfrecord': ('.tfrecord', '.tfrecords'),
  'webdataset': ('.tar',),
  'parquet': ('.parquet',),
  'folder': ('.jsonl', '.csv'),
}

# Beside the ArrayRecord shards of a build: what their licence asks for.
LICENSE = 'imagen_jax-license.txt'


@dataclasses.dataclass(frozen=True)
class Place:
  """What is read, and where its index lies.

  Attributes:
    task: its name.
    kind: one of `ENDINGS`.
    pattern: of the shards.
    root: the folder that shards are named from.
    index: the folder of the index.
  """

  task: str
  kind: str
  pattern: str
  root: str
  index: str

  @property
  def field(self) -> str:
    """The field that names the shards."""
    return f'data.tasks[{self.task}].path'

  @property
  def index_field(self) -> str:
    """The field that names the index."""
    return f'data.tasks[{self.task}].index'


def of(task: config_lib.TaskConfig) -> Place:
  """Returns the place of a task whose kind has an index.

  Raises:
    ValueError: where its path is empty, or its scheme does not fit its kind.
  """
  path = task.path.rstrip('/')
  field = f'data.tasks[{task.name}].path'
  if not path:
    raise ValueError(f'{field} is {task.path!r}; accepted: a path of shards')
  if task.kind == 'arrayrecord' and files.is_remote(path):
    if not path.startswith('gs://'):
      raise ValueError(
        f'{field} is {task.path!r}; accepted: a folder or gs://..., which are '
        'what ArrayRecord reads'
      )
  endings = ENDINGS[task.kind]
  varies = patterns.is_glob(path) or '{' in path
  if not varies and not path.endswith(endings):
    if task.kind == 'folder':
      path = files.join(path, '{' + ','.join(lines.NAMES) + '}')
    else:
      path = files.join(path, f'*{endings[0]}*')
  root = patterns.fixed_folder(path)
  digest = hashlib.sha256(f'{task.kind} {path[len(root) :]}'.encode())
  beside = f'imagen_jax-{task.kind}-{digest.hexdigest()[:8]}.index'
  return Place(
    task.name,
    task.kind,
    path,
    root,
    task.index.rstrip('/') or files.join(root, beside),
  )


def shards(place: Place) -> tuple[list[files.File], list[str]]:
  """Returns the shards that there are, and the names of those missing.

  Of a folder of pictures the one shard is its captions file.

  Raises:
    ValueError: where there are none.
  """
  found, missing = finding.find(place.pattern, place.field)
  if not found:
    raise ValueError(
      f'{place.field} is {place.pattern!r}, which names no file that is there; '
      f'accepted: {" or ".join(ENDINGS[place.kind])} files'
    )
  if place.kind == 'folder':
    return found[:1], []
  return found, missing


def name(place: Place, file: files.File) -> str:
  """Returns the name of a shard, from the root."""
  return file.path.removeprefix(place.root).lstrip('/')
