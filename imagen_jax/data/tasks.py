"""The tasks of a config as seqio Tasks, and their mixture."""

from collections.abc import Iterator
from collections.abc import Sequence
import functools
import hashlib
import re

import seqio
import tensorflow as tf

from imagen_jax import config as config_lib
from imagen_jax.data import reader as reader_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import source as source_lib
from imagen_jax.data import squares as squares_lib

# What seqio allows in the name of a Task, less what we use ourselves.
_NAME = re.compile(r'[\w.#]+')

HELDOUT = records_lib.HELDOUT

# Records whose captions are part of a dataset's fingerprint.
_FINGERPRINTED = 32


def task_name(config: config_lib.Config, name: str) -> str:
  """Returns the name under which seqio knows task `name` of `config`.

  Configs that read the same data in the same way share Tasks; all others have
  their own, since a hash of what matters is part of the name.
  """
  data = config.data
  identity = repr(
    (
      data.tasks,
      data.caption_choice,
      data.max_bad_share,
      squares_lib.of(config),
    )
  )
  digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
  return f'imagen_jax:{digest}:{name}'


def register(config: config_lib.Config) -> seqio.Mixture:
  """Returns the mixture of `config`, having registered it and its Tasks.

  The Tasks give `image`, uint8 [S, S, 3], `caption`, `key`, `slot`, `seed` and,
  for a stage that has one, `lowres`. A second call with
  the same config returns the same mixture.

  Raises:
    ValueError: where there are no tasks, or one cannot be read.
  """
  if not config.data.tasks:
    raise ValueError(
      'data.tasks is empty; accepted: at least one task (name, path)'
    )
  mixture = task_name(config, 'mixture')
  if mixture in seqio.MixtureRegistry.names():
    return seqio.MixtureRegistry.get(mixture)
  tasks = [_register_task(config, task) for task in config.data.tasks]
  rates = [task.rate for task in config.data.tasks]
  return seqio.MixtureRegistry.add(mixture, list(zip(tasks, rates)))


def _register_task(config, task):
  if not _NAME.fullmatch(task.name) or task.name == 'mixture':
    raise ValueError(
      f'data.tasks has the name {task.name!r}; accepted: letters, digits, '
      "'_', '.' and '#', and not 'mixture'"
    )
  name = task_name(config, task.name)
  if name in seqio.TaskRegistry.names():
    return seqio.TaskRegistry.get(name)
  source = source_lib.PictureSource(
    task,
    taken=reader_lib.Taken(squares_lib.of(config), config.data.caption_choice),
    max_bad_share=config.data.max_bad_share,
  )
  source.records(task.split)  # Refuses a split that is not there.
  text = functools.partial(
    seqio.Feature,
    seqio.PassThroughVocabulary(size=0),
    add_eos=False,
    rank=0,
    dtype=tf.string,
  )
  features = {
    'image': seqio.ContinuousFeature(dtype=tf.uint8, rank=3),
    'caption': text(),
    'key': text(),
    'slot': seqio.ContinuousFeature(dtype=tf.int64, rank=0),
  }
  if config.stage.lowres_size is not None:
    features['lowres'] = seqio.ContinuousFeature(dtype=tf.uint8, rank=3)
  return seqio.TaskRegistry.add(
    name,
    source=source,
    # The source does it all: see `reader.Reader.dataset`.
    preprocessors=[],
    output_features=features,
    # The source permutes whole epochs; a buffer of pictures adds nothing.
    shuffle_buffer_size=None,
  )


def task(config: config_lib.Config, name: str) -> seqio.Task:
  """Returns the seqio Task of task `name` of `config`, registered."""
  register(config)
  return seqio.TaskRegistry.get(task_name(config, name))


def splits(config: config_lib.Config) -> dict[str, list[records_lib.Records]]:
  """Returns, by task, the records to train on and the held-out ones, if any.

  Raises:
    ValueError: as `register`.
  """
  found = {}
  for entry in config.data.tasks:
    source = task(config, entry.name).source
    names = [entry.split]
    if source.num_heldout:
      names.append(HELDOUT)
    names = dict.fromkeys(names)  # Once each, where held-out is trained on.
    found[entry.name] = [source.records(split) for split in names]
  return found


def without_heldout(config: config_lib.Config) -> list[str]:
  """Returns the names of the tasks whose datasets have nothing held out.

  Raises:
    ValueError: as `register`.
  """
  return [
    entry.name
    for entry in config.data.tasks
    if not task(config, entry.name).source.num_heldout
  ]


def attribution(config: config_lib.Config) -> str:
  """Returns what the licences of the pictures ask to be said beside them.

  Raises:
    ValueError: as `register`.
  """
  licenses = dict.fromkeys(
    records.license
    for parts in splits(config).values()
    for records in parts
    if records.license
  )
  return '; '.join(licenses)


def num_examples(config: config_lib.Config) -> dict[str, dict[str, int]]:
  """Returns the number of records by task and split.

  Raises:
    ValueError: as `register`.
  """
  return {
    name: {records.split: len(records) for records in parts}
    for name, parts in splits(config).items()
  }


class Captions:
  """The captions of a split of a dataset, by record; pictures stay encoded.

  Attributes:
    name: of the task and the split, for messages.
    fingerprint: of the captions, for all that can be told without reading
      them; another dataset in the same place has another.
  """

  def __init__(self, records: records_lib.Records):
    self._records = records
    self.name = f'data.tasks[{records.name}] ({records.split})'
    digest = hashlib.sha256(records.info)
    # A store of some of its captions is not one of all of them.
    digest.update(records.selection)
    digest.update(f'{records.split} {len(records)}'.encode())
    # What the dataset says of itself has sizes, not contents.
    step = -(-len(records) // _FINGERPRINTED)
    for found in records.captions_of(range(0, len(records), step)):
      digest.update('\0'.join(found).encode())
    self.fingerprint = digest.hexdigest()[:32]

  def __len__(self) -> int:
    return len(self._records)

  def read(self, indices: Sequence[int]) -> Iterator[str]:
    """Yields the usable captions of records, in the records' order.

    Records without a usable one are left out, as they are in training.
    """
    for found in self._records.captions_of(indices):
      yield from found


def captions(config: config_lib.Config) -> list[Captions]:
  """Returns the captions of all tasks, the held-out ones too.

  A dataset that several tasks read comes once.

  Raises:
    ValueError: as `register`.
  """
  every = (
    Captions(records) for parts in splits(config).values() for records in parts
  )
  return list({found.fingerprint: found for found in every}.values())
