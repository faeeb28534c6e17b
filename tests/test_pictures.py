"""Pictures of others: decoded alike, or refused for one of a few reasons."""

import io
import subprocess
import sys
import warnings

import numpy as np
from PIL import Image
from PIL import ImageOps
import pytest

from imagen_jax import pictures


def noise(height, width):
  rng = np.random.default_rng(3)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def save(image, form='PNG', **options):
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


def pixels(encoded, **options):
  """Returns a picture, decoded, as uint8 [H, W, 3]."""
  return np.asarray(pictures.decode(encoded, **options).image)


def claimed(width, height):
  """A BMP of 8 x 8 whose header says otherwise."""
  file = bytearray(save(Image.new('1', (8, 8)), 'BMP'))
  file[18:26] = np.array([width, height], '<i4').tobytes()
  return bytes(file)


def test_a_picture_of_too_many_pixels_is_not_decoded():
  # A header that claims 20,000 x 20,000, and one that Pillow itself refuses.
  for side in (20_000, 2_000_000):
    with pytest.raises(pictures.TooLargeError):
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pictures.decode(claimed(side, side))


@pytest.mark.parametrize('form', ['PNG', 'WEBP', 'BMP'])
def test_formats_decode_to_the_same_pixels(form):
  image = noise(5, 9)
  options = {'lossless': True} if form == 'WEBP' else {}
  found = pixels(save(Image.fromarray(image), form, **options))
  np.testing.assert_array_equal(found, image)


def test_other_formats_are_opened_to_be_repacked_alone():
  tiff = save(Image.fromarray(noise(5, 9)), 'TIFF')
  with pictures.opened(tiff) as image:
    assert image.format == 'TIFF'
  with pytest.raises(pictures.DamagedError):
    pictures.decode(tiff)


def test_transparency_is_laid_on_white():
  image = Image.new('RGBA', (2, 1), (255, 0, 0, 255))
  image.putpixel((1, 0), (0, 0, 0, 0))
  found = pixels(save(image))
  np.testing.assert_array_equal(found, [[[255, 0, 0], [255, 255, 255]]])


def test_grey_and_palette_become_rgb():
  grey = pixels(save(Image.new('L', (1, 1), 100)))
  np.testing.assert_array_equal(grey, [[[100] * 3]])
  deep = Image.fromarray(np.array([[100 * 257]], np.uint16))
  np.testing.assert_array_equal(pixels(save(deep)), [[[100] * 3]])
  palette = Image.new('RGB', (1, 1), (1, 2, 3)).convert('P')
  assert pixels(save(palette)).shape == (1, 1, 3)


def test_cmyk_becomes_rgb():
  """As Adobe's programs write it: with inverted inks, which a marker tells."""
  white = Image.new('RGB', (16, 16), 'white').convert('CMYK')
  red = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
  for image, wanted in ((white, [255, 255, 255]), (red, [255, 0, 0])):
    encoded = save(image, 'JPEG', quality=100)
    assert b'Adobe' in encoded
    found = pixels(encoded).astype(int)
    assert np.abs(found - wanted).max() <= 3


@pytest.mark.parametrize('form', ['GIF', 'WEBP', 'PNG'])
def test_of_an_animation_the_first_frame_is_taken(form):
  frames = [Image.new('RGB', (8, 8), color) for color in ('red', 'blue')]
  options = {'lossless': True} if form == 'WEBP' else {}
  encoded = save(
    frames[0], form, save_all=True, append_images=frames[1:], **options
  )
  found = pixels(encoded)
  np.testing.assert_array_equal(found, np.asarray(frames[0]))


def test_a_long_picture_is_refused_by_its_header():
  encoded = save(Image.fromarray(noise(10, 25)))
  assert pixels(encoded, max_aspect=2.5).shape == (10, 25, 3)
  with pytest.raises(pictures.TooLongError):
    pictures.decode(encoded[:45], max_aspect=2.4)


def test_a_cameras_orientation_is_obeyed():
  image = noise(16, 8)
  exif = Image.Exif()
  exif[0x0112] = 6  # The top of the picture is at the right of the file.
  found = pixels(save(Image.fromarray(image), exif=exif))
  np.testing.assert_array_equal(found, np.rot90(image, -1))


@pytest.mark.filterwarnings('ignore::UserWarning:PIL')
def test_random_damage_has_one_name():
  rng = np.random.default_rng(1)
  image = Image.fromarray(noise(20, 24))
  good = [save(image, form) for form in pictures.FORMATS]
  outcomes = set()
  for _ in range(300):
    broken = bytearray(good[rng.integers(len(good))])
    for place in rng.integers(len(broken), size=rng.integers(1, 20)):
      broken[place] = rng.integers(256)
    try:
      pictures.decode(bytes(broken))
      outcomes.add('decoded')
    except (pictures.DamagedError, pictures.TooLargeError) as error:
      outcomes.add(type(error))
  assert {'decoded', pictures.DamagedError} <= outcomes


def scanned(more, side=16, **options):
  """A progressive JPEG, its last scan repeated."""
  image = Image.fromarray(noise(side, side))
  encoded = save(image, 'JPEG', progressive=True, **options)
  last = encoded[encoded.rindex(b'\xff\xda') : -2]
  return encoded[:-2] + last * more + b'\xff\xd9'


def test_a_jpeg_of_endless_scans_is_not_decoded(monkeypatch):
  usual = scanned(0).count(b'\xff\xda')
  assert 5 < usual <= 12
  pictures.decode(scanned(pictures.MAX_SCANS - usual))
  for more in (pictures.MAX_SCANS - usual + 1, 10_000):
    with pytest.raises(pictures.DamagedError, match=f'{usual + more} scans'):
      pictures.decode(scanned(more))
  # Fewer of a large picture.
  monkeypatch.setattr(pictures, '_MAX_SCANNED', 20 * 16**2)
  pictures.decode(scanned(20 - usual))
  with pytest.raises(pictures.DamagedError, match='21 scans'):
    pictures.decode(scanned(21 - usual))


def test_a_jpeg_of_one_pass_is_refused_at_its_second_scan():
  """By libjpeg itself, so that nobody need search it for scans."""
  encoded = save(Image.fromarray(noise(16, 16)), 'JPEG')
  scan = encoded[encoded.rindex(b'\xff\xda') : -2]
  for more in (1, pictures.MAX_SCANS):
    with pytest.raises(pictures.DamagedError) as error:
      pictures.decode(encoded[:-2] + scan * more + encoded[-2:])
    assert 'broken data stream' in str(error.value.__cause__)


def test_a_jpeg_of_a_scan_for_each_colour_is_of_several():
  """Though it is not progressive: its scans may come again, too."""
  grey = save(Image.fromarray(noise(16, 16)[..., 0]), 'JPEG')
  # The first of three components of a frame, as the only one of its scan.
  frame = grey.index(b'\xff\xc0')
  scan = grey.index(b'\xff\xda')
  more = b'\x00\x11\x08\x00\x10\x00\x10\x03' + bytes(
    [1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]
  )
  first = grey[:frame] + b'\xff\xc0\x00\x11' + more[2:]
  tables = grey[frame + 13 : scan]
  encoded = first + tables + grey[scan:-2] * (pictures.MAX_SCANS + 1)
  with pytest.raises(pictures.DamagedError, match='101 scans'):
    pictures.decode(encoded + b'\xff\xd9')


def test_what_looks_like_a_scan_in_other_segments_is_none():
  """As a preview within the tags, a profile, or a picture behind the end."""
  exif = Image.Exif()
  exif[0x010E] = 'a' + '\xff\xda' * 1000
  marks = b'\xff\xda' * 1000
  encoded = scanned(0, exif=exif, icc_profile=marks, comment=marks) + marks
  assert encoded.count(b'\xff\xda') > 3000
  assert pixels(encoded).shape == (16, 16, 3)


HALF_TURN = Image.Exif()
HALF_TURN[0x0112] = 3

# Modes, how they are written, and bytes that a pixel takes.
FORMS = {
  'jpeg': ('RGB', 'JPEG', {}, 4),
  'progressive': ('RGB', 'JPEG', {'progressive': True, 'subsampling': 0}, 10),
  'progressive 4:2:0': ('RGB', 'JPEG', {'progressive': True}, 7),
  'grey': ('L', 'PNG', {}, 5),
  'deep grey': ('I;16', 'PNG', {}, 6),
  'transparent': ('RGBA', 'PNG', {}, 8),
  'turned': ('RGB', 'PNG', {'exif': HALF_TURN}, 8),
  'webp': ('RGB', 'WEBP', {}, 16),
}


@pytest.mark.parametrize('form', FORMS)
def test_a_picture_that_takes_too_much_memory_is_not_decoded(form, monkeypatch):
  mode, name, options, depth = FORMS[form]
  encoded = save(Image.new(mode, (40, 30)), name, **options)
  monkeypatch.setattr(pictures, 'MAX_BYTES', depth * 1200)
  assert pixels(encoded).shape == (30, 40, 3)
  monkeypatch.setattr(pictures, 'MAX_BYTES', depth * 1200 - 1)
  with pytest.raises(pictures.TooLargeError):
    pictures.decode(encoded)


_PEAK = """
import resource, sys
from imagen_jax import pictures
encoded = open(sys.argv[1], 'rb').read()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pictures.decode(encoded[:-1] + encoded[-1:], shorter=None)
before = peak()
pictures.decode(open(sys.argv[2], 'rb').read())
print((peak() - before) * 1024)
"""


@pytest.mark.parametrize('form', ['deep grey', 'transparent', 'webp'])
def test_what_a_picture_takes_is_what_it_is_said_to(form, tmp_path):
  mode, name, options, depth = FORMS[form]
  for file, side in (('small', 9), ('large', 2600)):
    encoded = save(Image.new(mode, (side, side)), name, **options)
    (tmp_path / file).write_bytes(encoded)
  done = subprocess.run(
    [sys.executable, '-c', _PEAK, tmp_path / 'small', tmp_path / 'large'],
    capture_output=True,
    check=True,
  )
  # And strips of it; copies took twice to thrice as much.
  assert int(done.stdout) < 1.25 * depth * 2600**2


@pytest.mark.parametrize(
  ('mode', 'options'),
  [
    ('RGBA', {}),
    ('LA', {}),
    ('P', {'transparency': bytes(range(0, 256, 2))}),
    ('P', {'transparency': 7}),
    ('L', {'transparency': 7}),
    ('I;16', {}),
  ],
)
def test_a_picture_in_strips_has_the_same_pixels(mode, options, monkeypatch):
  image = Image.fromarray(noise(30, 17)).convert(
    'L' if mode == 'I;16' else mode
  )
  if mode == 'I;16':
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 250)
  elif 'A' in mode:
    image.putalpha(Image.fromarray(noise(30, 17)[..., 0]))
  encoded = save(image, **options)
  whole = pixels(encoded)
  for pixels_at_once in (1, 40, 100):
    monkeypatch.setattr(pictures, '_STRIP', pixels_at_once)
    np.testing.assert_array_equal(pixels(encoded), whole)


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_every_orientation_is_as_pillow_turns_it(mode):
  image = Image.fromarray(noise(6, 9)).convert(mode)
  for orientation in range(10):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = save(image, exif=exif)
    with Image.open(io.BytesIO(encoded)) as opened:
      wanted = ImageOps.exif_transpose(opened).convert('RGB')
    np.testing.assert_array_equal(pixels(encoded), np.asarray(wanted))
