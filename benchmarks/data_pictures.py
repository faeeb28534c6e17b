"""The pictures that `benchmarks/data.py` reads, written in every form."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

KILOBYTES = 87


def draw(number, sides):
  """Returns a JPEG of about `KILOBYTES`, noise with a spectrum of 1/f."""
  rng = np.random.default_rng(number)
  width, height = sides
  rows = np.fft.fftfreq(height)[:, None, None]
  columns = np.fft.fftfreq(width)[None, :, None]
  radius = np.maximum(np.hypot(rows, columns), 1 / width)
  noise = np.fft.fft2(rng.normal(size=(height, width, 3)), axes=(0, 1))
  image = np.fft.ifft2(noise / radius, axes=(0, 1)).real
  image = (image / image.std() * 48 + 128).clip(0, 255).astype(np.uint8)
  least, most = 5, 95
  while least < most:  # The quality that gives the size.
    quality = (least + most + 1) // 2
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    if file.tell() > KILOBYTES * 1000:
      most = quality - 1
    else:
      least = quality
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=least)
  return file.getvalue()


def write(folder, pictures, sides):
  """Writes the pictures in every form; returns their mean size in bytes."""
  import pyarrow
  from pyarrow import parquet

  encoded = [draw(number, sides) for number in range(pictures)]
  rows = [
    {'key': f'{n:06d}', 'jpg': data, 'txt': f'picture {n}'}
    for n, data in enumerate(encoded)
  ]
  for name in ('tar', 'parquet', 'pictures'):
    (folder / name).mkdir(parents=True)
  with tarfile.open(folder / 'tar' / '00000.tar', 'w') as archive:
    for row in rows:
      for ending, data in (('jpg', row['jpg']), ('txt', row['txt'].encode())):
        member = tarfile.TarInfo(f'{row["key"]}.{ending}')
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
  parquet.write_table(
    pyarrow.Table.from_pylist(rows),
    folder / 'parquet' / '00000.parquet',
    row_group_size=100,
  )
  lines = []
  for row in rows:
    name = f'{row["key"]}.jpg'
    (folder / 'pictures' / name).write_bytes(row['jpg'])
    lines.append(json.dumps({'file': name, 'caption': row['txt']}))
  (folder / 'pictures' / 'captions.jsonl').write_text('\n'.join(lines))

  from imagen_jax.synthetic import build

  build.build(
    'folder', folder / 'tfds', source=folder / 'pictures', progress=False
  )
  for kind, name in (('webdataset', 'tar'), ('parquet', 'parquet')):
    index(folder, kind, name)
  return float(np.mean([len(data) for data in encoded]))


def task(folder, kind, name):
  """Returns the config of a task that reads one of the forms."""
  from imagen_jax import config

  return config.TaskConfig('bench', str(folder / name), kind=kind)


def index(folder, kind, name):
  """Writes the index of one of the forms."""
  from imagen_jax.shards import build
  from imagen_jax.shards import place

  build.build(place.of(task(folder, kind, name)))
