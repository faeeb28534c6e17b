"""What a build that goes on compares: the records, wherever they lie."""

import shard_files

from imagen_jax.prepare import parts as parts_lib
from imagen_jax.prepare import sources


def described(folder, first=0):
  records = [shard_files.record(number) for number in range(first, first + 9)]
  task = shard_files.indexed('webdataset', folder, records)
  return sources.describe([parts_lib.Part(0, task, 'train', 1, 0.0, 9)])


def test_other_records_of_the_same_number_are_told(tmp_path):
  one = described(tmp_path / 'a')
  assert described(tmp_path / 'b') == one
  assert described(tmp_path / 'c', first=1) != one
