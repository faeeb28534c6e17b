"""Damaged text-image pairs, made of a handful of good ones.

    python tests/data/make_mutated.py --out FOLDER --count 2000 --seed 0

writes pictures and captions.jsonl. The same count and seed give the same pairs.
Most are damaged in one way out of a dozen, by random bytes; about one in eight
is left good. The tests import `corpus` and write it in every form that is read.
"""

import argparse
import io
import json
import pathlib
import struct

import numpy as np
from PIL import Image


def _good_pictures():
  """Returns good pictures, encoded, of all forms that are read."""
  rng = np.random.default_rng(0)
  smooth = np.cumsum(rng.normal(0, 4, (40, 56, 3)), axis=1) + 128
  image = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
  exif = Image.Exif()
  exif[0x0112] = 6
  other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  several = {'save_all': True, 'append_images': [other]}
  forms = [
    ('JPEG', image, {'quality': 90}),
    ('JPEG', image, {'progressive': True, 'exif': exif}),
    ('JPEG', image.convert('CMYK'), {}),
    ('JPEG', image.convert('L'), {}),
    ('PNG', image, {}),
    ('PNG', image.convert('RGBA'), {}),
    ('PNG', image.convert('P'), {}),
    ('PNG', image.convert('L').convert('I;16'), {}),
    ('WEBP', image, {'lossless': True}),
    ('WEBP', image, several),
    ('GIF', image, several),
    ('BMP', image, {}),
  ]
  found = []
  for form, one, options in forms:
    file = io.BytesIO()
    one.save(file, form, **options)
    found.append(file.getvalue())
  return found


def _cut(rng, data):
  return data[: rng.integers(len(data))]


def _flip_bits(rng, data):
  data = bytearray(data)
  for place in rng.integers(len(data), size=rng.integers(1, 30)):
    data[place] ^= 1 << int(rng.integers(8))
  return bytes(data)


def _break_head(rng, data):
  data = bytearray(data)
  for place in rng.integers(min(64, len(data)), size=rng.integers(1, 8)):
    data[place] = rng.integers(256)
  return bytes(data)


def _overwrite(rng, data):
  start = int(rng.integers(len(data)))
  length = int(rng.integers(1, len(data) + 1))
  return data[:start] + rng.bytes(length) + data[start + length :]


def _blank(rng, data):
  start = int(rng.integers(len(data)))
  return data[:start] + bytes(len(data) - start)


def _drop_some(rng, data):
  start = int(rng.integers(len(data)))
  return data[:start] + data[start + int(rng.integers(1, 200)) :]


def _repeat_some(rng, data):
  start, stop = sorted(rng.integers(len(data), size=2).tolist())
  return data[:stop] + data[start:stop] * int(rng.integers(1, 20)) + data[stop:]


def _add_behind(rng, data):
  return data + rng.bytes(int(rng.integers(1, 5000)))


def _claim_pixels(rng, data):
  """A small file that says it is a picture of gigabytes."""
  width, height = rng.integers(20_000, 2**31 - 1, size=2).tolist()
  claims = [
    (b'IHDR', 4, struct.pack('>II', width, height)),
    (b'\xff\xc0', 5, struct.pack('>HH', height % 2**16, width % 2**16)),
    (b'GIF8', 6, struct.pack('<HH', width % 2**16, height % 2**16)),
    (b'BM', 18, struct.pack('<ii', width, height)),
  ]
  for mark, offset, claim in claims:
    place = data.find(mark)
    if place >= 0:
      place += offset
      return data[:place] + claim + data[place + len(claim) :]
  return data


def _other(rng, data):
  """Something else under a picture's name."""
  texts = [b'', b'\0', b'<html>404 Not Found</html>', b'%PDF-1.7\n', b'PK\3\4']
  chosen = int(rng.integers(len(texts) + 1))
  return texts[chosen] if chosen < len(texts) else rng.bytes(3000)


_DAMAGE = (
  *(_cut, _flip_bits, _break_head, _overwrite, _blank, _drop_some),
  *(_repeat_some, _add_behind, _claim_pixels, _other),
)

_CAPTIONS = (
  b'',
  b' \t\n',
  None,
  b'\xff\xfe caption',
  b'caf\xe9',
  b'x' * 3000,
  b'\xed\xa0\x80',
  b'nul \0 inside',
  '\u202e right to left'.encode(),
)


def corpus(count: int, seed: int = 0):
  """Yields pairs: {'key': text, 'jpg': bytes, 'txt': bytes or None}.

  Args:
    count: how many.
    seed: of all chance.
  """
  rng = np.random.default_rng(seed)
  good = _good_pictures()
  for number in range(count):
    data = good[number % len(good)]
    caption = f'picture {number}'.encode()
    what = int(rng.integers(8))
    if what == 1:
      caption = _CAPTIONS[int(rng.integers(len(_CAPTIONS)))]
    elif what > 1:
      for _ in range(int(rng.integers(1, 3))):
        damage = _DAMAGE[int(rng.integers(len(_DAMAGE)))]
        data = damage(rng, data) if data else data
    yield {'key': f'{number:09d}', 'jpg': data, 'txt': caption}


def mutate(data: bytes, count: int, seed: int = 0):
  """Yields so many damaged versions of a file."""
  rng = np.random.default_rng(seed)
  for number in range(count):
    yield _DAMAGE[number % (len(_DAMAGE) - 2)](rng, data)


def main():
  """Writes a corpus to a folder."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--count', type=int, default=2000)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  with (args.out / 'captions.jsonl').open('w') as lines:
    for pair in corpus(args.count, args.seed):
      name = f'{pair["key"]}.jpg'
      (args.out / name).write_bytes(pair['jpg'])
      caption = pair['txt']
      if caption is not None:
        caption = caption.decode(errors='surrogateescape')
      lines.write(json.dumps({'file': name, 'caption': caption}) + '\n')


if __name__ == '__main__':
  main()
