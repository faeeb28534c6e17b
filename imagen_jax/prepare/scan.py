"""The first pass: a range of records, read, checked, and spooled.

A record is read and decoded once. What can be used goes to the range's spool,
as it will be written; beside it lie facts about each: where it is in there,
what tells it from others, and what the report counts. Of the rest it is noted
why.
"""

import collections

import numpy as np

from imagen_jax.data import examples
from imagen_jax.data import records as records_lib
from imagen_jax.data import table as table_lib
from imagen_jax.prepare import facts as facts_lib
from imagen_jax.prepare import folder
from imagen_jax.prepare import options as options_lib
from imagen_jax.prepare import parts
from imagen_jax.prepare import picture as picture_lib
from imagen_jax.prepare import signature
from imagen_jax.prepare import sources

_INT64 = range(-(2**63), 2**63)


def scan(out: str, some: parts.Range, options: options_lib.Options):
  """Reads a range; writes its spool, then its facts.

  Raises:
    UnreachableError: where storage does not give a record.
  """
  records = sources.records(some.part)
  fields = {one.field for one in some.part.task.filters} | set(options.keep)
  facts = []
  counts = facts_lib.Counts(some.stop - some.start, {}, {}, {})
  bad, dropped = collections.Counter(), collections.Counter()
  end = 0
  with (
    folder.writing(out, folder.path(out, folder.SPOOL, some.name)) as local,
    open(local, 'wb') as spool,
  ):
    for index in range(some.start, some.stop):
      try:
        record = records.read(index, fields=fields)
      except records_lib.BadRecordError as error:
        reason = str(error)
        bad[reason] += 1
        keys = counts.keys.setdefault(reason, [])
        if len(keys) < facts_lib.KEYS:
          keys.append([index, records.key(index)])
        continue
      except records_lib.DroppedRecordError as error:
        dropped[str(error)] += 1
        continue
      data, fact = _made(record, some.part.task, options)
      end += spool.write(data)
      facts.append((index, end, *fact))
    spool.flush()
  counts.bad, counts.dropped = dict(bad), dict(dropped)
  facts_lib.write(out, some.name, counts, facts)


def _made(record, task, options):
  """Returns a record as it is written, and the rest of its facts."""
  image = np.asarray(record.picture.image)
  fitted = picture_lib.fit(image, options.sizes)
  look, tint = signature.look(fitted)
  lengths = [len(text) for text in record.captions]
  bins = np.searchsorted(facts_lib.CAPTION_EDGES, lengths, side='right') - 1
  row = {
    **_metadata(record.metadata, task),
    'image': picture_lib.encode(fitted, options.form),
    'captions': list(record.captions),
    'key': record.key,
  }
  return examples.serialize(row), (
    signature.exact(image),
    look,
    np.frombuffer(tint, np.uint8),
    min(image.shape[:2]),
    min(fitted.size),
    np.bincount(bins, minlength=len(facts_lib.CAPTION_EDGES)),
  )


def _metadata(found, task):
  """Returns metadata as an Example has it, so that filters see the same."""
  texts = {one.field for one in task.filters if one.accepted}
  row = {}
  for field, value in found.items():
    if isinstance(value, list):
      value = value[0] if value else None
    if isinstance(value, bool | int | float):
      # A filter compares these as they are spelled.
      if field in texts or (isinstance(value, int) and value not in _INT64):
        value = str(value)
    elif value is not None:
      value = table_lib.as_bytes(value)
    if value is not None and field not in options_lib.OWN_FIELDS:
      row[field] = value
  return row
