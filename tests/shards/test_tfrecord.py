"""TFRecord shards, against TensorFlow's own reader."""

import pytest
import shard_files
import tensorflow as tf

from imagen_jax.shards import files
from imagen_jax.shards import tfrecord


def scan(path):
  return tfrecord.scan(files.stat(str(path), 'path'))


def contents(path):
  found, data = scan(path), path.read_bytes()
  spans = zip(found.entries, found.entries[1:])
  return [tfrecord.content(data[start:stop]) for start, stop in spans]


def write(path, records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for one in records:
      writer.write(one)


RECORDS = [b'', b'one', bytes(100_000), b'three' * 1000]


def test_records_are_those_that_tensorflow_wrote(tmp_path):
  write(tmp_path / 'x', RECORDS)
  assert contents(tmp_path / 'x') == RECORDS
  assert scan(tmp_path / 'x').damage == ''
  framed = b''.join(map(shard_files.frame, RECORDS))
  assert (tmp_path / 'x').read_bytes() == framed


def test_a_shard_may_be_cut_anywhere(tmp_path):
  write(tmp_path / 'x', RECORDS[:2])
  data = (tmp_path / 'x').read_bytes()
  for size in range(1, len(data)):
    (tmp_path / 'x').write_bytes(data[:size])
    whole = size >= 16
    assert contents(tmp_path / 'x') == RECORDS[:whole]
    assert ('cut at byte' in scan(tmp_path / 'x').damage) == (size != 16)


def test_a_broken_length_ends_a_shard(tmp_path):
  write(tmp_path / 'x', RECORDS[1:3] * 2)
  data = bytearray((tmp_path / 'x').read_bytes())
  data[19 + 2] ^= 1
  (tmp_path / 'x').write_bytes(data)
  assert contents(tmp_path / 'x') == RECORDS[1:2]
  assert scan(tmp_path / 'x').damage.endswith('are not read) at byte 19')


def test_a_broken_record_is_seen_when_it_is_read(tmp_path):
  write(tmp_path / 'x', RECORDS)
  data = bytearray((tmp_path / 'x').read_bytes())
  data[5000] ^= 1
  (tmp_path / 'x').write_bytes(data)
  assert scan(tmp_path / 'x').records == 4
  with pytest.raises(tfrecord.RecordError, match='wrong checksum'):
    contents(tmp_path / 'x')
