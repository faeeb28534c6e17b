"""Shards of a few small pictures, as img2dataset and others write them."""

import csv
import io
import json
import struct
import tarfile

import google_crc32c
import numpy as np
from PIL import Image
import pyarrow
from pyarrow import parquet

from imagen_jax import config as config_lib
from imagen_jax.shards import build
from imagen_jax.shards import place as place_lib

# Endings of the shards that `write` writes, by kind.
ENDINGS = {
  'webdataset': 'tar',
  'tfrecord': 'tfrecord',
  'arrayrecord': 'array_record',
  'parquet': 'parquet',
}


def picture(number, height=8, width=8, form='PNG'):
  """Returns a picture that differs by `number`, encoded."""
  rng = np.random.default_rng(number)
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(image).save(file, form)
  return file.getvalue()


def record(number, **changes):
  """Returns a record, as img2dataset's writers get one."""
  return {
    'key': f'{number:09d}',
    'jpg': picture(number),
    'txt': f'picture {number}',
    'similarity': number / 100,
    'NSFW': 'UNLIKELY' if number % 2 else 'NSFW',
    'width': 8,
  } | changes


def write(kind, path, records):
  """Writes records to a shard."""
  path.parent.mkdir(parents=True, exist_ok=True)
  _WRITERS[kind](path, list(records))


def write_many(kind, folder, records, per_shard=4):
  """Writes records to the shards of a folder; returns them, in order."""
  records = list(records)
  if kind == 'folder':
    write_folder(folder, records)
    return [folder / 'captions.jsonl']
  paths = []
  for number, start in enumerate(range(0, len(records), per_shard)):
    path = folder / f'{number:05d}.{ENDINGS[kind]}'
    write(kind, path, records[start : start + per_shard])
    paths.append(path)
  return paths


def write_folder(folder, records, form='jsonl'):
  """Writes pictures as files, and a captions file."""
  (folder / 'pictures').mkdir(parents=True, exist_ok=True)
  rows = []
  for one in records:
    name = f'pictures/{one["key"]}.png'
    if one['jpg'] is not None:
      (folder / name).write_bytes(one['jpg'])
    rest = {k: v for k, v in one.items() if k != 'jpg'}
    rows.append({**rest, 'file': name})
  path = folder / f'captions.{form}'
  if form == 'jsonl':
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def task(kind, path, **fields):
  """Returns the config of a task."""
  return config_lib.TaskConfig('some', str(path), kind=kind, **fields)


def index(task, **options):
  """Writes the index of a task, and returns the report."""
  return build.build(place_lib.of(task), **options)


def indexed(kind, folder, records, **fields):
  """Writes records and their index; returns the task."""
  write_many(kind, folder, records)
  found = task(kind, folder, **fields)
  index(found)
  return found


def tar_members(one):
  """Yields the members of a record, as (name, bytes)."""
  meta = {k: v for k, v in one.items() if k not in ('jpg', 'txt')}
  for ending in ('jpg', 'txt'):
    value = one.get(ending)
    if value is not None:
      value = value.encode() if isinstance(value, str) else value
      yield f'{one["key"]}.{ending}', value
  yield f'{one["key"]}.json', json.dumps(meta).encode()


def _write_tar(path, records, **options):
  with tarfile.open(path, 'w', **options) as archive:
    for one in records:
      for name, data in tar_members(one):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def frame(data):
  """Returns a record as TFRecord frames it."""

  def masked(part):
    value = google_crc32c.value(part)
    value = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack('<I', value)

  head = struct.pack('<Q', len(data))
  return head + masked(head) + data + masked(data)


def _example(one):
  import tensorflow as tf

  def feature(value):
    if isinstance(value, str):
      value = value.encode(errors='surrogatepass')
    if isinstance(value, bytes):
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, float):
      return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

  features = {k: feature(v) for k, v in one.items() if v is not None}
  features = tf.train.Features(feature=features)
  return tf.train.Example(features=features).SerializeToString()


def _write_tfrecord(path, records):
  path.write_bytes(b''.join(frame(_example(one)) for one in records))


def _write_array_record(path, records):
  from array_record.python import array_record_module

  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for one in records:
    writer.write(_example(one))
  writer.close()


def _write_parquet(path, records):
  parquet.write_table(
    pyarrow.Table.from_pylist(records), path, row_group_size=3
  )


_WRITERS = {
  'webdataset': _write_tar,
  'tfrecord': _write_tfrecord,
  'arrayrecord': _write_array_record,
  'parquet': _write_parquet,
}
