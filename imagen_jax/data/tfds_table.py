"""TFDS datasets in ArrayRecord form, as tables."""

import os

import tensorflow_datasets as tfds

from imagen_jax import config as config_lib
from imagen_jax import storage
from imagen_jax.data import array_records
from imagen_jax.data import examples
from imagen_jax.data import table as table_lib


class Dataset:
  """A TFDS dataset.

  Attributes:
    splits: {name: number of records}.
  """

  def __init__(self, task: config_lib.TaskConfig):
    """Opens the dataset in the folder `task.path`.

    Raises:
      ValueError: where there is no such dataset, or one of another form; or a
        bucket that cannot be read.
    """
    self._task = task
    self._builder = _open_builder(task)
    self._names = _names(task, _flat(self._builder.info.features))
    self.splits = {
      split: info.num_examples
      for split, info in self._builder.info.splits.items()
    }

  def table(self, split: str) -> table_lib.Table:
    """Returns the rows of a split, or of a part such as 'train[:90%]'.

    Raises:
      ValueError: where there is no such split, or it is empty.
    """
    infos = self._builder.info.splits
    try:
      size = infos[split].num_examples
    except (KeyError, ValueError):
      raise ValueError(
        f'data.tasks[{self._task.name}].split is {split!r}; accepted: one of '
        f'{sorted(infos)}, or a part of one'
      ) from None
    if not size:
      raise ValueError(
        f'data.tasks[{self._task.name}] has no examples in split {split!r} of '
        f'{str(self._builder.data_dir)!r}; accepted: at least one'
      )
    return _Table(self._names, self._builder, split)


class _Table(table_lib.Table):
  """A split of a builder."""

  def __init__(self, names, builder, split):
    info = builder.data_path / 'dataset_info.json'
    license = builder.info.as_proto.redistribution_info.license
    super().__init__(names, license, info.read_bytes())
    self.source = array_records.Source(
      [
        array_records.Part(
          one.filename, one.skip, one.take, one.examples_in_shard
        )
        for one in builder.info.splits[split].file_instructions
      ]
    )
    self._remote = storage.is_bucket(str(builder.data_dir))

  def __len__(self):
    return len(self.source)

  def row(self, index, wanted):
    return examples.parse(self.raw(index))

  def raw(self, index):
    read = self.source.__getitem__
    return array_records.told(read, index, remote=self._remote)


def _open_builder(task):
  path, field = task.path, f'data.tasks[{task.name}].path'
  accepted = 'accepted: the folder of a TFDS dataset in ArrayRecord form'
  if not storage.is_bucket(path) and not os.path.isdir(path):
    raise ValueError(f'{field} is {path!r}, which is no folder; {accepted}')
  if storage.read(f'{path.rstrip("/")}/dataset_info.json', field) is None:
    raise ValueError(
      f'{field} is {path!r}, which has no dataset_info.json; {accepted}'
    )
  builder = tfds.builder_from_directory(path)
  form = builder.info.file_format
  if form is not tfds.core.FileFormat.ARRAY_RECORD:
    raise ValueError(
      f'{field} is {path!r}, in {form and form.value} form; {accepted}; of '
      "TFRecord files, name them by a pattern with kind 'tfrecord'"
    )
  return builder


def _flat(features, prefix=''):
  """Yields the names of features as Examples have them, 'captions/text'."""
  for name, feature in features.items():
    inside = getattr(feature, 'feature', feature)  # Of a sequence.
    if isinstance(inside, tfds.features.FeaturesDict):
      yield from _flat(inside, f'{prefix}{name}/')
    else:
      yield prefix + name


def _names(task, there):
  """Returns which of the features are what.

  Raises:
    ValueError: where they are not there.
  """
  there = list(there)
  names = table_lib.names(task)
  captions = [name for name in names.captions if name in there][:1]
  if not set(names.image) & set(there) or not captions:
    raise ValueError(
      f'data.tasks[{task.name}].path is {task.path!r}, with the features '
      f'{sorted(there)}; accepted: {_either(names.image)} with '
      f'{_either(names.captions)}, or others that image and captions of '
      f'data.tasks[{task.name}] name'
    )
  return names


def _either(names):
  return ' or '.join(map(repr, names))
