"""What is known of a range once it was scanned: facts of each usable record."""

from collections.abc import Sequence
import dataclasses
import json

import numpy as np

from imagen_jax.prepare import folder
from imagen_jax.prepare import signature

# Characters of captions, as the report counts them: from each on.
CAPTION_EDGES = (1, 16, 32, 64, 128, 256, 512, 1024)

# Keys of bad records that a report names, by reason.
KEYS = 5

# Of each usable record of a range.
FACTS = np.dtype(
  [
    ('index', '<u8'),  # In its part.
    ('stop', '<u8'),  # Where it ends in the spool.
    ('exact', 'V16'),
    ('look', '<u8'),
    ('tint', 'u1', (signature.TINT,)),
    ('short', '<u4'),  # The shorter side, as it was read.
    ('size', '<u4'),  # And as it is written.
    ('captions', '<u4', (len(CAPTION_EDGES),)),  # How many of each length.
  ]
)


@dataclasses.dataclass
class Counts:
  """Of a range: what became of its records.

  Attributes:
    seen: how many there are.
    bad: {reason: how many}.
    dropped: the same of those that are sound.
    keys: {reason: [[number, key], ...]} of the first bad ones.
  """

  seen: int
  bad: dict
  dropped: dict
  keys: dict


def write(out: str, name: str, counts: Counts, facts: Sequence[tuple]):
  """Writes what is known of a range: whole, or not at all."""
  head = json.dumps(dataclasses.asdict(counts)).encode()
  body = np.array(facts, FACTS).tobytes()
  folder.write(out, folder.FACTS, name, head + b'\n' + body)


def read(out: str, name: str) -> tuple[Counts, np.ndarray]:
  """Returns the counts and the facts of a range that was scanned.

  Raises:
    FileNotFoundError: where it was not.
    OSError: where storage does not give them.
  """
  head, _, body = folder.read(out, folder.FACTS, name).partition(b'\n')
  return Counts(**json.loads(head)), np.frombuffer(body, FACTS)
