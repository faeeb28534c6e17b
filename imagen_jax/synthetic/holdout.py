"""Which combinations a model never sees in training, and draws from them."""

import collections.abc
import hashlib
import typing

import numpy as np

Statement = typing.TypeVar('Statement')


def share(*parts: str) -> float:
  """Returns a number in [0, 1) that depends on `parts` alone.

  It is the same on every machine and in every release, so that a set built
  today and one built next year hold out the same combinations.
  """
  joined = '\x1f'.join(parts).encode()
  digest = hashlib.blake2b(joined, digest_size=8).digest()
  return int.from_bytes(digest, 'big') / 2**64


def draw_distinct(
  by_kind: collections.abc.Mapping[str, collections.abc.Sequence[Statement]],
  kind_shares: collections.abc.Mapping[str, float],
  n: int,
  seed: int,
) -> list[Statement]:
  """Returns `n` distinct statements, kinds mixed as nearly as can be.

  Each kind gives its share of `n` or, where it has fewer, all that it has;
  the kinds that have more make up for it.

  Args:
    by_kind: the statements of each kind.
    kind_shares: share of each kind, summing to 1.
    n: how many statements, all kinds together.
    seed: the same seed gives the same statements in the same order.

  Raises:
    ValueError: where there are fewer than `n` statements.
  """
  total = sum(len(statements) for statements in by_kind.values())
  if not 0 <= n <= total:
    raise ValueError(
      f'n is {n}; accepted: 0 to {total}, the held-out captions there are'
    )
  rng = np.random.default_rng(seed)
  chosen = []
  # Smallest kinds first: what they lack is spread over those still to come.
  kinds = sorted(by_kind, key=lambda kind: len(by_kind[kind]))
  for index, kind in enumerate(kinds):
    still = sum(kind_shares[other] for other in kinds[index:])
    wanted = round((n - len(chosen)) * kind_shares[kind] / still)
    take = min(wanted, len(by_kind[kind]))
    picks = rng.permutation(len(by_kind[kind]))[:take]
    chosen.extend(by_kind[kind][pick] for pick in picks)
  missing = n - len(chosen)
  if missing:
    rest = [s for kind in kinds for s in by_kind[kind] if s not in chosen]
    chosen.extend(rest[pick] for pick in rng.permutation(len(rest))[:missing])
  return [chosen[index] for index in rng.permutation(len(chosen))]
