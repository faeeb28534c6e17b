"""Patterns that name many files: 'laion/{00000..41407}.tar', 'part-*.tar'."""

from collections.abc import Iterator
import itertools
import re

_BRACES = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'(\d+)\.\.(\d+)')

# Files of one pattern: a slip of the finger should not fill the memory.
MAX_FILES = 10_000_000


def is_glob(path: str) -> bool:
  """Returns whether a path has a star, a question mark or brackets."""
  return any(sign in path for sign in '*?[')


def expand(pattern: str, field: str) -> Iterator[str]:
  """Yields what a pattern's braces stand for; stars stay.

  '{008..011}' is a range, with leading zeros as its first number has them, and
  '{a,b}' a choice. The last braces change fastest.

  Args:
    pattern: of paths.
    field: that holds it, for errors.

  Raises:
    ValueError: where a brace is neither, or there are too many paths.
  """
  texts = _BRACES.split(pattern)
  if any(sign in text for text in texts[::2] for sign in '{}'):
    _refuse(field, pattern)
  choices = [_choice(text, field, pattern) for text in texts[1::2]]
  count = 1
  for choice in choices:
    count *= len(choice)
  if count > MAX_FILES:
    raise ValueError(
      f'{field} is {pattern!r}, which names {count:,} files; accepted: up to '
      f'{MAX_FILES:,}'
    )
  parts = [[text] for text in texts]
  parts[1::2] = choices
  for chosen in itertools.product(*parts):
    yield ''.join(chosen)


def fixed_folder(pattern: str) -> str:
  """Returns the part of a pattern before the first folder that varies."""
  fixed = re.split(r'[{*?\[]', pattern, maxsplit=1)[0]
  return fixed.rpartition('/')[0]


def _choice(text, field, pattern):
  if match := _RANGE.fullmatch(text):
    first, last = map(int, match.groups())
    if not first <= last <= first + MAX_FILES:
      _refuse(field, pattern)
    digits = len(match[1])
    return [f'{number:0{digits}d}' for number in range(first, last + 1)]
  found = text.split(',')
  if len(found) < 2:
    _refuse(field, pattern)
  return found


def _refuse(field, pattern):
  raise ValueError(
    f'{field} is {pattern!r}; accepted: braces in pairs, as {{000..119}} or '
    f'{{a,b}}, of up to {MAX_FILES:,} files'
  )
