"""What tells pictures apart."""

import io

import numpy as np
from PIL import Image
import pytest

from imagen_jax.prepare import signature


def landscape(number, size=128):
  """A picture with the spectrum of photographs, that differs by `number`."""
  rng = np.random.default_rng(number)
  places = np.fft.fftfreq(size)
  radius = np.hypot(places[:, None], places) + 1 / size
  grey = rng.normal(size=(size, size))
  channels = [
    np.fft.ifft2(
      np.fft.fft2(grey + 0.6 * rng.normal(size=(size, size))) / radius**1.2
    ).real
    for _ in range(3)
  ]
  x = np.stack(channels, -1)
  x = (x - x.mean()) / x.std() * 50 + rng.integers(80, 176)
  return Image.fromarray(x.clip(0, 255).astype(np.uint8))


def compressed(picture, quality):
  file = io.BytesIO()
  picture.save(file, 'JPEG', quality=quality)
  return Image.open(io.BytesIO(file.getvalue())).convert('RGB')


def found(pictures, distance=3):
  """Pairs of later and earlier pictures that look alike, by their numbers."""
  looks = [signature.look(picture) for picture in pictures]
  return signature.partners(
    np.arange(len(looks), dtype=np.uint64),
    np.array([bits for bits, _ in looks], np.uint64),
    np.array([np.frombuffer(tint, np.uint8) for _, tint in looks]),
    distance,
  )


def test_the_digest_is_of_pixels_and_shape():
  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  other = image.copy()
  other[3, 3, 2] ^= 1
  same = np.asfortranarray(image)
  assert signature.exact(image) == signature.exact(same)
  digests = {
    signature.exact(one) for one in (image, other, image.reshape(2, 8, 3))
  }
  assert len(digests) == 3 and all(len(each) == 16 for each in digests)


def test_a_picture_looks_as_it_did_when_it_was_compressed_or_scaled():
  pictures = [landscape(number) for number in range(8)]
  for change in (
    lambda one: compressed(one, 50),
    lambda one: one.resize((72, 72), Image.Resampling.LANCZOS),
    lambda one: compressed(one.resize((200, 190)), 75),
  ):
    pairs = found([*pictures, *map(change, pictures)])
    assert pairs == {number + 8: number for number in range(8)}


def test_colours_tell_what_the_look_does_not():
  def disc(red, blue):
    y, x = np.mgrid[:64, :64]
    inside = ((x - 30) ** 2 + (y - 34) ** 2 < 400)[..., None]
    colours = np.array([red, 90, blue]), np.array([255, 255, 255])
    return Image.fromarray(np.where(inside, *colours).astype(np.uint8))

  # Of the same grey: 0.299 of 76 red, and 0.114 of 200 blue.
  pictures = [disc(76, 0), disc(0, 200), disc(77, 1)]
  assert found(pictures) == {2: 0}


@pytest.mark.parametrize('distance', range(4))
def test_looks_within_the_distance_share_a_bucket(distance):
  rng = np.random.default_rng(distance)
  apart = 0
  for _ in range(300):
    bits = int(rng.integers(2**64, dtype=np.uint64))
    other = bits
    for place in rng.choice(64, distance, replace=False):
      other ^= 1 << int(place)
    both = [set(signature.buckets(each, distance)) for each in (bits, other)]
    assert both[0] & both[1]
    stranger = int(rng.integers(2**64, dtype=np.uint64))
    apart += not both[0] & set(signature.buckets(stranger, distance))
  # Else buckets would be so large that all is compared with all.
  assert apart > 290


def test_partners_are_those_that_comparing_all_finds(monkeypatch):
  monkeypatch.setattr(signature, '_ROWS', 7)
  rng = np.random.default_rng(0)
  looks = rng.integers(0, 64, 90).astype(np.uint64)  # Six bits: many alike.
  tints = rng.integers(0, 30, (90, signature.TINT)).astype(np.uint8)
  tints[::2] //= 4
  ranks = np.arange(90, dtype=np.uint64) * 3 + 2**45
  wanted = {}
  for later in range(90):
    for earlier in range(later):
      near = (int(looks[later]) ^ int(looks[earlier])).bit_count() <= 1
      colours = np.abs(tints[later].astype(int) - tints[earlier]).max() <= 12
      if near and colours:
        wanted[int(ranks[later])] = int(ranks[earlier])
        break
  assert len(wanted) > 20
  assert signature.partners(ranks, looks, tints, 1) == wanted


def test_a_bucket_of_millions_costs_no_square(monkeypatch):
  """Each is compared with a bounded number before it."""
  monkeypatch.setattr(signature, '_COMPARED', 10)
  monkeypatch.setattr(signature, '_ROWS', 1)
  tints = np.zeros((30, signature.TINT), np.uint8)
  looks = np.zeros(30, np.uint64)
  ranks = np.arange(30, dtype=np.uint64)
  found = signature.partners(ranks, looks, tints, 0)
  assert found[5] == 0 and found[29] == 19 and len(found) == 29


def test_flat_pictures_are_told_apart_by_their_colour():
  flat = [Image.new('RGB', (40, 40), c) for c in ('white', 'black', 'white')]
  assert found(flat) == {2: 0}
