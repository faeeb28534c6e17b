"""seqio data sources that can start anywhere.

seqio's own TFDS source reads files from the front, so that a run resumed at
step n would read all that came before it again. Ours asks for records by
number, in the order that `order.Order` gives, and so can start at any slot and
read every host's own rows only.
"""

import seqio
import tensorflow as tf

from imagen_jax import config as config_lib
from imagen_jax.data import order as order_lib
from imagen_jax.data import reader as reader_lib
from imagen_jax.data import records as records_lib
from imagen_jax.data import tally as tally_lib

# Seats are worked out for this many positions at a time.
_SEAT_CHUNK = 256


class PictureSource(seqio.DataSource):
  """The text-image pairs of a task, as a seqio source.

  Used in seqio's ordinary way it gives each position of one epoch once, with
  unusable records replaced. `at` gives the source of chosen seats instead.
  """

  def __init__(
    self,
    task: config_lib.TaskConfig,
    *,
    taken: reader_lib.Taken,
    max_bad_share: float,
  ):
    """Opens the dataset.

    Args:
      task: its name, and where and what its files are.
      taken: what is taken of records; too small pictures are dropped.
      max_bad_share: largest accepted share of bad records.

    Raises:
      ValueError: where there is no such dataset.
    """
    self.name = task.name
    self._task = task
    self.taken = taken
    self.max_bad_share = max_bad_share
    self._dataset = records_lib.open_dataset(
      task, max_missing_share=max_bad_share
    )
    self._records = {}
    super().__init__(
      splits=tuple(self._dataset.splits),
      num_input_examples=self._dataset.splits,
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
        self._task, self._dataset, split, min_size=self.taken.squares.least_side
      )
    return self._records[split]

  @property
  def num_heldout(self) -> int:
    """Returns the number of held-out records; 0 without such a split."""
    return self._dataset.splits.get(records_lib.HELDOUT, 0)

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
    """Returns one epoch of examples; see `reader.Reader.dataset`.

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

    tally = tally_lib.Tally(self.max_bad_share)
    reader = reader_lib.Reader(records, self.taken, order, 0, tally)
    chosen = reader_lib.seats(positions.batch(_SEAT_CHUNK), seat)
    return reader.dataset(chosen)

  def at(
    self, reader: reader_lib.Reader, chosen: tf.data.Dataset
  ) -> '_SeatedSource':
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
