"""The last pass: a shard put together from the spools of its ranges."""

from array_record.python import array_record_module
import numpy as np

from imagen_jax.prepare import folder
from imagen_jax.prepare import plan
from imagen_jax.prepare import summary
from imagen_jax.shards import files


def write(out: str, shard: plan.Shard):
  """Writes a shard: whole, or not at all.

  Memory: a record, and the facts of a range.
  """
  address = files.join(files.join(out, shard.task), shard.name)
  with folder.writing(out, address) as local:
    # A record alone is what a shuffled order reads.
    writer = array_record_module.ArrayRecordWriter(local, 'group_size:1')
    for run in shard.runs:
      for data in records(out, run):
        writer.write(data)
    writer.close()
  # Known by a file of its own, and not by the shard: what is written in a
  # folder of a task may be of anyone.
  folder.write(out, folder.SHARDS, shard.name, b'')


def records(out: str, run: plan.Run):
  """Yields the records of a run, as they were spooled."""
  facts, left = summary.kept(out, run.name)
  stops = facts['stop'].astype(np.int64)
  starts = np.concatenate([[0], stops[:-1]])
  path = folder.path(out, folder.SPOOL, run.name)
  file = files.stat(path, folder.FIELD)
  if file is None:
    raise FileNotFoundError(2, 'is gone while it is built', path)
  spool = files.Stream(file)
  for number in np.nonzero(left)[0][run.first : run.stop]:
    start, stop = int(starts[number]), int(stops[number])
    data = spool.read(start, stop - start)
    if len(data) < stop - start:
      raise OSError(f'{path} is cut; remove it with its facts to read it again')
    yield data
