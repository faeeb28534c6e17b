"""Records of a task, opened, and what reading them gives."""

import shard_files

from imagen_jax.data import records as records_lib

KINDS = ('webdataset', 'tfrecord', 'arrayrecord', 'parquet', 'folder')


def some(count=10, **changes):
  """Returns so many records of `shard_files`, each changed alike."""
  return [shard_files.record(number, **changes) for number in range(count)]


def opened(task, split='train', share=0.0, **options):
  """Returns the records of a task's split."""
  dataset = records_lib.open_dataset(task, max_missing_share=share)
  return records_lib.Records(task, dataset, split, **options)


def outcome(records, index):
  """The key of a record, or why it is not used."""
  try:
    return records.read(index).key
  except (records_lib.BadRecordError, records_lib.DroppedRecordError) as error:
    return str(error)
