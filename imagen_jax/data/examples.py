"""Rows that are protocol buffers: tf.train.Example."""

from google.protobuf import message
import tensorflow as tf

from imagen_jax.data import table as table_lib


def parse(record: bytes) -> dict:
  """Returns the features of an Example, each a list.

  Raises:
    DamagedError: where it is none.
  """
  try:
    example = tf.train.Example.FromString(record)
  except message.DecodeError as error:
    raise table_lib.DamagedError('unreadable record') from error
  row = {}
  for name, feature in example.features.feature.items():
    kind = feature.WhichOneof('kind')
    row[name] = list(getattr(feature, kind).value) if kind else []
  return row


def serialize(row: dict) -> bytes:
  """Returns a row as an Example; the same bytes for the same row.

  Args:
    row: {name: bytes, text or number, or a list of one of those}.
  """
  features = {}
  # Sorted, and written in that order: a map's own order is any.
  for name, value in sorted(row.items()):
    values = value if isinstance(value, list) else [value]
    if all(isinstance(one, bool | int) for one in values):
      kind = {'int64_list': tf.train.Int64List(value=map(int, values))}
    elif all(isinstance(one, int | float) for one in values):
      kind = {'float_list': tf.train.FloatList(value=values)}
    else:
      texts = [one.encode() if isinstance(one, str) else one for one in values]
      kind = {'bytes_list': tf.train.BytesList(value=texts)}
    features[name] = tf.train.Feature(**kind)
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString(deterministic=True)
