import io
import json
import os
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from imagen_jax.synthetic import folder


def encoded(kind='PNG', mode='RGB', size=(24, 20), **options):
  noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3))
  out = io.BytesIO()
  image = Image.fromarray(noise.astype(np.uint8)).convert(mode)
  image.save(out, kind, **options)
  return out.getvalue()


def entries(tmp_path, *lines):
  """What is read of lines given as objects, or as raw bytes."""
  raw = [
    line if isinstance(line, bytes) else json.dumps(line).encode()
    for line in lines
  ]
  (tmp_path / 'captions.jsonl').write_bytes(b'\n'.join(raw))
  tally = folder.Tally()
  return folder.read_entries(tmp_path, tally), tally.to_dict()


def test_good_lines(tmp_path):
  found, skipped = entries(
    tmp_path,
    {'file': 'a.png', 'caption': ' a  cat\n'},
    b'',
    {'file': 'b.png', 'captions': ['two dogs', 'zwei Hunde, größer']},
  )
  assert found == [
    folder.Entry('a.png', ('a cat',)),
    folder.Entry('b.png', ('two dogs', 'zwei Hunde, größer')),
  ]
  assert skipped == {}


@pytest.mark.parametrize(
  'line, reason',
  [
    (b'{"file": "a.png"', 'bad JSON line'),
    (b'{"file": "\xff.png", "caption": "a"}', 'bad JSON line'),
    ([1, 2], 'line without "file"'),
    ({'caption': 'a cat'}, 'line without "file"'),
    ({'file': 3, 'caption': 'a cat'}, 'line without "file"'),
    ({'file': 'a.png'}, 'line without "caption"'),
    ({'file': 'a.png', 'caption': '  '}, 'empty caption'),
    ({'file': 'a.png', 'caption': 7}, 'caption is not text'),
    ({'file': 'a.png', 'caption': 'x' * 2001}, 'caption over 2000 characters'),
    ({'file': 'a.png', 'captions': 'a cat'}, '"captions" is not a list'),
    ({'file': 'a.png', 'captions': []}, 'no usable caption'),
    (b'{"file": "a.png", "caption": "\\ud800"}', 'caption is not Unicode'),
  ],
)
def test_bad_lines_are_counted(tmp_path, line, reason):
  good = {'file': 'b.png', 'caption': 'x' * 2000}
  found, skipped = entries(tmp_path, good, line)
  assert [entry.file for entry in found] == ['b.png']
  assert skipped == {reason: {'count': 1, 'first': ['line 2']}}


def test_a_good_caption_keeps_the_picture(tmp_path):
  line = {'file': 'a.png', 'captions': ['', 'a cat']}
  found, skipped = entries(tmp_path, line)
  assert found == [folder.Entry('a.png', ('a cat',))]
  assert skipped == {'empty caption': {'count': 1, 'first': ['line 1']}}


def test_few_of_many_keys_are_listed(tmp_path):
  _, skipped = entries(tmp_path, *[b'?'] * 20)
  assert skipped['bad JSON line']['count'] == 20
  assert skipped['bad JSON line']['first'][-1] == 'line 5'


@pytest.mark.parametrize('read', [folder.digest, folder.read_entries])
def test_folders_without_captions_are_refused(tmp_path, read):
  rest = (folder.Tally(),) if read is folder.read_entries else ()
  with pytest.raises(ValueError, match='none is not a folder; accepted'):
    read(tmp_path / 'none', *rest)
  with pytest.raises(ValueError, match='captions.jsonl cannot be read'):
    read(tmp_path, *rest)


@pytest.mark.parametrize(
  'picture',
  [encoded('PNG'), encoded('JPEG'), encoded('PNG', 'L'), encoded('JPEG', 'L')],
  ids=['png', 'jpeg', 'grey png', 'grey jpeg'],
)
def test_common_pictures_are_kept_as_they_are(tmp_path, picture):
  (tmp_path / 'x').write_bytes(picture)
  assert folder.read_picture(tmp_path, 'x') == picture


def decoded(tmp_path, picture):
  (tmp_path / 'x').write_bytes(picture)
  kept = Image.open(io.BytesIO(folder.read_picture(tmp_path, 'x')))
  assert (kept.format, kept.mode) == ('PNG', 'RGB')
  return np.asarray(kept)


def test_others_become_png(tmp_path):
  plain = np.asarray(Image.open(io.BytesIO(encoded('PNG'))))
  for kind in ('BMP', 'TIFF', 'GIF'):
    got = decoded(tmp_path, encoded(kind))
    assert got.shape == plain.shape
  np.testing.assert_array_equal(decoded(tmp_path, encoded('BMP')), plain)
  assert decoded(tmp_path, encoded('JPEG', 'CMYK')).shape == plain.shape
  assert decoded(tmp_path, encoded('PNG', 'P')).shape == plain.shape


def test_transparency_is_over_white(tmp_path):
  image = Image.new('RGBA', (4, 4), (200, 0, 0, 0))
  image.putpixel((1, 1), (200, 0, 0, 255))
  out = io.BytesIO()
  image.save(out, 'PNG')
  got = decoded(tmp_path, out.getvalue())
  assert tuple(got[0, 0]) == (255, 255, 255)
  assert tuple(got[1, 1]) == (200, 0, 0)


def test_turned_pictures_are_put_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # To be turned by 90 degrees.
  got = decoded(tmp_path, encoded('JPEG', exif=exif))
  assert got.shape == (24, 20, 3)


def huge_png():
  """A PNG whose header says 20,000 x 20,000."""
  body = b'IHDR' + struct.pack('>IIBBBBB', 20_000, 20_000, 8, 2, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + struct.pack('>I', 13)
    + body
    + struct.pack('>I', zlib.crc32(body))
    + encoded('PNG')[33:]
  )


@pytest.mark.parametrize(
  'picture, reason',
  [
    (b'', 'corrupt picture'),
    (b'no picture at all', 'corrupt picture'),
    (encoded('PNG')[:-200], 'corrupt picture'),
    (encoded('JPEG')[:-100], 'corrupt picture'),
    (huge_png(), 'over 100 megapixels'),
    (encoded('TIFF', 'I'), 'pixels of type I'),
  ],
)
def test_bad_pictures_are_skipped(tmp_path, picture, reason):
  (tmp_path / 'x').write_bytes(picture)
  with pytest.raises(folder.Skipped, match=reason):
    folder.read_picture(tmp_path, 'x')


def test_missing_and_strange_files_are_skipped(tmp_path):
  source = tmp_path / 'source'
  source.mkdir()
  (source / 'folder').mkdir()
  (tmp_path / 'secret.png').write_bytes(encoded())
  os.symlink(tmp_path / 'secret.png', source / 'link.png')
  for file, reason in (
    ('none.png', 'missing file'),
    ('folder', 'unreadable file'),
    ('folder/../../secret.png', 'file outside the folder'),
    (str(tmp_path / 'secret.png'), 'file outside the folder'),
    ('link.png', 'file outside the folder'),
    ('a\0b', 'bad file name'),
  ):
    with pytest.raises(folder.Skipped, match=reason):
      folder.read_picture(source, file)


@pytest.mark.filterwarnings('ignore::UserWarning:PIL')
def test_random_damage_never_escapes(tmp_path):
  rng = np.random.default_rng(0)
  good = [encoded(kind) for kind in ('PNG', 'JPEG', 'GIF', 'BMP', 'WEBP')]
  outcomes = set()
  for _ in range(400):
    picture = bytearray(good[rng.integers(len(good))])
    for place in rng.integers(len(picture), size=rng.integers(1, 20)):
      picture[place] = rng.integers(256)
    (tmp_path / 'x').write_bytes(picture)
    try:
      Image.open(io.BytesIO(folder.read_picture(tmp_path, 'x'))).load()
      outcomes.add('kept')
    except folder.Skipped as reason:
      outcomes.add(str(reason))
  assert {'kept', 'corrupt picture'} <= outcomes
