"""What tells pictures apart: an exact digest, and how one looks.

All of it is reckoned in integers, so that a picture has the same signature on
every machine.
"""

import hashlib
import itertools

import numpy as np
from PIL import Image

# A look is 8 x 8 frequencies of a picture of 32 x 32.
_SIDE, _LOW = 32, 8

# Colours of 4 x 4 areas, beside the look, which has none.
_AREAS = 4
TINT = _AREAS * _AREAS * 3

# Of 255, in the colour of any area: what compression and scaling change is a
# third of it.
_TINT_TOLERANCE = 12

# The 64 bits in so many blocks, as even as can be.
_BLOCKS = 5

# Pictures of one bucket that each is compared with: the last ones before it.
# A bound on what a bucket costs that millions of almost empty pictures share.
_COMPARED = 10_000

# Compared at once.
_ROWS = 256


def _cosines():
  """Rows of the cosine transform, int64 [8, 32], without the constant one."""
  places = (2 * np.arange(_SIDE) + 1) * np.pi / (2 * _SIDE)
  rows = np.cos(np.arange(1, _LOW + 1)[:, None] * places)
  return np.round(rows * 2**14).astype(np.int64)


_COSINES = _cosines()


def exact(image: np.ndarray) -> bytes:
  """Returns 16 bytes of a digest of the pixels, uint8 [H, W, 3]."""
  digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
  digest.update(np.ascontiguousarray(image))
  return digest.digest()


def look(image: Image.Image) -> tuple[int, bytes]:
  """Returns how a picture looks: 64 bits, and the colours of its areas.

  The bits are signs of the lowest 8 x 8 frequencies of the grey picture, less
  their median: what is left after scaling, compression, and slight changes of
  light. Pictures that differ in colour alone have the same; the areas tell.

  Args:
    image: RGB.

  Returns:
    The bits as a number, and `TINT` bytes.
  """
  small = image.resize((_SIDE, _SIDE), Image.Resampling.HAMMING)
  grey = np.asarray(small.convert('L')).astype(np.int64)
  low = (_COSINES @ grey @ _COSINES.T).ravel()
  bits = low > np.sort(low)[low.size // 2]
  areas = small.resize((_AREAS, _AREAS), Image.Resampling.BOX)
  return int.from_bytes(np.packbits(bits).tobytes(), 'big'), areas.tobytes()


def buckets(bits: int, distance: int) -> list[bytes]:
  """Returns the buckets of a look: those within `distance` bits share one.

  The bits are cut into 5 blocks. Looks that differ in d bits differ in at most
  d blocks, and so agree in 5 - d of them, whole: a bucket is a choice of so
  many blocks, and what they hold.

  Args:
    bits: of a look.
    distance: 0 to 3.
  """
  edges = [64 * block // _BLOCKS for block in range(_BLOCKS + 1)]
  found = []
  choices = itertools.combinations(range(_BLOCKS), _BLOCKS - distance)
  for number, choice in enumerate(choices):
    mask = sum(
      (1 << edges[block + 1]) - (1 << edges[block]) for block in choice
    )
    found.append(bytes([number]) + (bits & mask).to_bytes(8, 'big'))
  return found


def partners(
  ranks: np.ndarray, looks: np.ndarray, tints: np.ndarray, distance: int
) -> dict[int, int]:
  """Returns {rank: lowest rank before it that looks alike}, of one bucket.

  Args:
    ranks: ascending, uint64 [n].
    looks: uint64 [n].
    tints: uint8 [n, TINT].
    distance: bits that may differ.
  """
  found = {}
  tints = tints.astype(np.int16)
  for start in range(0, len(ranks), _ROWS):
    stop = min(start + _ROWS, len(ranks))
    first = max(0, start - _COMPARED)
    differing = np.bitwise_count(
      looks[start:stop, None] ^ looks[None, first:stop]
    )
    alike = differing <= distance
    # Of a pair, the one that comes later.
    alike &= np.arange(start, stop)[:, None] > np.arange(first, stop)[None]
    for row in np.nonzero(alike.any(1))[0]:
      later = start + int(row)
      earlier = first + np.nonzero(alike[row])[0]
      apart = np.abs(tints[earlier] - tints[later]).max(1)
      same = earlier[apart <= _TINT_TOLERANCE]
      if same.size:
        found[int(ranks[later])] = int(ranks[same[0]])
  return found
