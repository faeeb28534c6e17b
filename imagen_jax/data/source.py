"""seqio data sources that can start anywhere.

seqio's own TFDS source reads files from the front, so that a run resumed at
step n would read all that came before it again. Ours asks for records by
number, in the order that `order.Order` gives, and so can start at any slot and
read every host's own rows only.
"""

import numpy as np
import seqio
import tensorflow as tf

from imagen_jax.data import order as order_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import tally as tally_lib

# Seats are worked out for this many positions at a time.
_SEAT_CHUNK = 256

# Records are read by this many at a time.
_READ_CHUNK = 16

# Records that are tried for one position. Of a small set that is all of them;
# of a large one so many that, if none can be used, looking on is no use: it
# would take days.
_MAX_TRIED = 100_000


class Reader:
  """Reads positions of one task's stream, replacing unusable records.

  What stands in for one depends on the position alone, so that all hosts, and
  a resumed run, put the same record there.
  """

  def __init__(
    self,
    records: records_lib.Records,
    order: order_lib.Order,
    task: int,
    tally: tally_lib.Tally,
  ):
    """Keeps its arguments; `task` is the task's number in `order`."""
    self._records = records
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
        found = self._records.read(int(record))
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
    """Returns the examples that sit on `seats`, decoded.

    Args:
      seats: of scalar slot, position, record (int64) and seed, int32 [2].

    Returns:
      {'image': uint8 [H, W, 3], 'captions': string [n], 'key': string,
      'slot': int64, 'seed': int32 [2]}; seed is the slot's own, for random
      choices.
    """
    # Read a few at a time: entering Python costs as much as decoding a small
    # picture does. Sizes differ, so pictures come out as strings of pixels.
    types = (tf.string, tf.int64, tf.string, tf.int64, tf.string)
    shapes = ([None], [None, 3], [None, None], [None], [None])

    def read(slot, position, record, seed):
      found = tf.numpy_function(self._read_all, [position, record], types)
      return slot, seed, *map(tf.ensure_shape, found, shapes)

    def example(slot, seed, pixels, shape, captions, num_captions, key):
      image = tf.reshape(tf.io.decode_raw(pixels, tf.uint8), shape)
      return {
        'image': tf.ensure_shape(image, [None, None, 3]),
        'captions': captions[:num_captions],
        'key': key,
        'slot': slot,
        'seed': seed,
      }

    chunks = seats.batch(_READ_CHUNK)
    found = chunks.map(read, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    return found.map(example, num_parallel_calls=tf.data.AUTOTUNE)

  def _read_all(self, positions, numbers):
    """Reads records; returns what `dataset` unpacks.

    Args:
      positions: in the task's stream, int64 [n].
      numbers: of the records, int64 [n].

    Returns:
      Pixels, n strings; shapes [n, 3]; captions, strings [n, m], filled up
      with empty ones; how many are real [n]; keys, n strings.
    """
    found = [self.read(*pair) for pair in zip(positions, numbers)]
    num_captions = np.array([len(one.captions) for one in found], np.int64)
    captions = np.full((len(found), num_captions.max()), b'', object)
    for row, one in enumerate(found):
      for column, caption in enumerate(one.captions):
        captions[row, column] = caption.encode()
    return (
      np.array([one.image.tobytes() for one in found], object),
      np.array([one.image.shape for one in found], np.int64),
      captions,
      num_captions,
      np.array([one.key.encode() for one in found], object),
    )


def seats(dataset: tf.data.Dataset, seat) -> tf.data.Dataset:
  """Returns the seats of each element of `dataset`, one by one.

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

  return dataset.map(several).unbatch()


class PictureSource(seqio.DataSource):
  """The text-image pairs of a TFDS dataset, as a seqio source.

  Used in seqio's ordinary way it gives each position of one epoch once, with
  unusable records replaced. `at` gives the source of chosen seats instead.
  """

  def __init__(
    self, name: str, path: str, *, min_size: int, max_bad_share: float
  ):
    """Opens the dataset.

    Args:
      name: of the task, for messages.
      path: folder of the dataset.
      min_size: pictures with a shorter side are dropped.
      max_bad_share: largest accepted share of bad records.

    Raises:
      ValueError: where there is no such dataset.
    """
    self.name = name
    self.min_size = min_size
    self.max_bad_share = max_bad_share
    self._builder = records_lib.open_builder(name, path)
    self._records = {}
    splits = self._builder.info.splits
    super().__init__(
      splits=tuple(splits),
      num_input_examples={
        split: info.num_examples for split, info in splits.items()
      },
      caching_permitted=False,
      performs_internal_shuffling=True,
    )

  def records(self, split: str) -> records_lib.Records:
    """Returns the records of a split.

    Raises:
      ValueError: where there is no such split, or it is empty.
    """
    if split not in self._records:
      self._records[split] = records_lib.Records(
        self.name, self._builder, split, min_size=self.min_size
      )
    return self._records[split]

  @property
  def num_heldout(self) -> int:
    """Returns the number of held-out records; 0 without such a split."""
    splits = self._builder.info.splits
    if records_lib.HELDOUT not in splits:
      return 0
    return splits[records_lib.HELDOUT].num_examples

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """Returns True: any part of the positions can be read alone."""
    return True

  def list_shards(self, split: str) -> list[str]:
    """Returns one name: seqio need not know the files."""
    return [split]

  def num_input_examples(self, split: str) -> int:
    """Returns the number of records of a split, or of a part of one."""
    return len(self.records(split))

  def get_dataset(
    self,
    split='train',
    shuffle=True,
    seed=None,
    shard_info=None,
    *,
    sequence_length=None,
    use_cached=False,
    num_epochs=1,
  ) -> tf.data.Dataset:
    """Returns one epoch of decoded examples; see `Reader.dataset`.

    Args:
      split: a split's name, or a part of one.
      shuffle: permute the epoch, by `seed`.
      seed: an integer; None is 0.
      shard_info: which positions are read, as in seqio.
      sequence_length: unused.
      use_cached: unused.
      num_epochs: unused; seqio repeats.
    """
    del sequence_length, use_cached, num_epochs
    records = self.records(split)
    order = order_lib.Order(
      seed or 0, (self.name,), (1.0,), (len(records),), shuffle
    )
    first = shard_info.index if shard_info else 0
    step = shard_info.num_shards if shard_info else 1
    positions = tf.data.Dataset.range(first, len(records), step)

    def seat(position):
      record = order.records(0, position)
      return position, position, record, order.example_seed(position)

    reader = Reader(records, order, 0, tally_lib.Tally(self.max_bad_share))
    return reader.dataset(seats(positions.batch(_SEAT_CHUNK), seat))

  def at(self, reader: Reader, chosen: tf.data.Dataset) -> '_SeatedSource':
    """Returns a source that reads only the seats in `chosen`, in order."""
    return _SeatedSource(self.splits, reader, chosen)


class _SeatedSource(seqio.DataSource):
  """A source whose order was settled before: what a loader reads from."""

  def __init__(self, splits, reader, chosen):
    super().__init__(splits=splits, caching_permitted=False)
    self._reader = reader
    self._chosen = chosen

  @property
  def supports_arbitrary_sharding(self):
    return True

  def list_shards(self, split):
    return [split]

  def get_dataset(self, split='train', shuffle=False, **unused):
    del split, shuffle, unused
    return self._reader.dataset(self._chosen)
