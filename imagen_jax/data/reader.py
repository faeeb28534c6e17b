"""Examples of a task's stream, read at chosen positions."""

import dataclasses
import zlib

import numpy as np
import tensorflow as tf

from imagen_jax.data import order as order_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import squares as squares_lib
from imagen_jax.data import tally as tally_lib

# Records are read by this many at a time.
_READ_CHUNK = 16

# Records that are tried for one position. Of a small set that is all of them;
# of a large one so many that, if none can be used, looking on is no use: it
# would take days.
_MAX_TRIED = 100_000


@dataclasses.dataclass(frozen=True)
class Taken:
  """What is taken of records.

  Attributes:
    squares: of their pictures.
    captions: 'random', one of them drawn each time, or 'turns', the next one
      each epoch, beginning with one that depends on the record's key.
  """

  squares: squares_lib.Squares
  captions: str = 'random'

  def caption(self, record: records_lib.Record, word: int, epoch: int) -> str:
    """Returns one of a record's captions; `word` is a hash of the slot."""
    if self.captions == 'turns':
      # Else every record would show its first caption in the first epoch.
      word = zlib.crc32(record.key.encode()) + epoch
    return record.captions[word % len(record.captions)]


class Reader:
  """Reads positions of one task's stream, replacing unusable records.

  What stands in for one depends on the position alone, so that all hosts, and
  a resumed run, put the same record there.
  """

  def __init__(
    self,
    records: records_lib.Records,
    taken: Taken,
    order: order_lib.Order,
    task: int,
    tally: tally_lib.Tally,
  ):
    """Keeps its arguments; `task` is the task's number in `order`."""
    self._records = records
    self._taken = taken
    self._order = order
    self._task = task
    self._tally = tally

  def read(self, position: int, record: int) -> records_lib.Record:
    """Returns the record at a position, or its replacement.

    Args:
      position: in the task's stream.
      record: the number that `order` gives for it.

    Raises:
      ValueError: where too many records are bad, none can be used, or storage
        does not give one; also kept in `tally.error`.
    """
    name = self._records.name
    tries = min(len(self._records), _MAX_TRIED)
    for attempt in range(tries):
      if attempt:
        (record,) = self._order.records(self._task, [position], attempt)
      try:
        found = self._records.read(int(record), self._taken.squares.shorter)
      except records_lib.BadRecordError as error:
        key = self._records.key(int(record))
        self._tally.add_bad(name, str(error), key)
      except records_lib.UnreachableError as error:
        self._tally.error = error
        raise
      except records_lib.DroppedRecordError as error:
        # Without its key, which would be read from disk again.
        self._tally.add_dropped(name, str(error))
      else:
        self._tally.add_good(name)
        return found
    return self._tally.add_hopeless(name, self._records.split, tries)

  def dataset(self, seats: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the examples that sit on `seats`.

    Args:
      seats: of slot, position, record (int64 [n]) and seed, int32 [n, 2],
        several at a time.

    Returns:
      One by one {'image': uint8 [S, S, 3], 'lowres': the same where the stage
      has one, 'caption': string, 'key': string, 'slot': int64, 'seed': int32
      [2]}; seed is the slot's own, for random choices.
    """
    squares = self._taken.squares
    sizes = {'image': squares.image_size, 'lowres': squares.lowres_size}
    sizes = {name: size for name, size in sizes.items() if size}
    types = [tf.string, tf.string, *[tf.uint8] * len(sizes)]
    shapes = [[None], [None], *([None, s, s, 3] for s in sizes.values())]

    def read(slot, position, record, seed):
      inputs = [position, record, seed]
      found = tf.numpy_function(self._read_all, inputs, types)
      names = ('caption', 'key', *sizes)
      found = dict(zip(names, map(tf.ensure_shape, found, shapes)))
      return {**found, 'slot': slot, 'seed': seed}

    # Several at a time: to enter Python costs as much as to decode a small
    # picture, and a step of TensorFlow's for each of them half of that.
    chunks = seats.rebatch(_READ_CHUNK)
    return chunks.map(read, num_parallel_calls=tf.data.AUTOTUNE).unbatch()

  def _read_all(self, positions, numbers, seeds):
    """Reads records; returns what `dataset` unpacks.

    Args:
      positions: in the task's stream, int64 [n].
      numbers: of the records, int64 [n].
      seeds: of the examples, int32 [n, 2].

    Returns:
      Captions and keys, n strings each; `image`, uint8 [n, S, S, 3]; and
      `lowres` where there is one.
    """
    captions, keys = [], []
    squares = self._taken.squares
    sizes = filter(None, (squares.image_size, squares.lowres_size))
    images = [np.empty((len(positions), s, s, 3), np.uint8) for s in sizes]
    epochs = positions // len(self._records)
    words, places = order_lib.words(seeds), order_lib.places(seeds)
    for row, position in enumerate(positions):
      record = self.read(position, numbers[row])
      caption = self._taken.caption(record, int(words[row]), int(epochs[row]))
      captions.append(caption.encode())
      keys.append(record.key.encode())
      # What was decoded of one is not held until the last one is.
      for image, cut in zip(images, squares.cut(record.picture, places[row])):
        image[row] = cut
    return (
      np.array(captions, object),
      np.array(keys, object),
      *images,
    )


def seats(dataset: tf.data.Dataset, seat) -> tf.data.Dataset:
  """Returns the seats of each element of `dataset`, all of one together.

  Args:
    dataset: of any single tensors, such as step numbers.
    seat: function of one of them as numpy; returns slot, position and record,
      int64 [n], and seed, int32 [n, 2].
  """
  types = (tf.int64, tf.int64, tf.int64, tf.int32)
  shapes = ([None], [None], [None], [None, 2])

  def several(element):
    found = tf.numpy_function(seat, [element], types)
    return tuple(map(tf.ensure_shape, found, shapes))

  return dataset.map(several)
