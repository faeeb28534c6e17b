"""Which captions of a record can be used, and how they are cleaned."""

import html
import re
import unicodedata

from imagen_jax import pictures
from imagen_jax.data import table as table_lib

_TAG = re.compile(r'</?[a-zA-Z][^<>]{0,500}>')
_ADDRESS = re.compile(
  r'(?:https?://|www\.)\S+'  # Of the web,
  r'|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+'  # or of mail.
)
# A handle, or a hash with a number: of a shop's or an agency's own.
_HANDLE = re.compile(r'(?<!\w)@\w+|#\d+\b')
# A camera's or a shop's names of files, and numbers without meaning.
_FILE = re.compile(r'\b[\w-]+\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b', re.I)
_SIZE = re.compile(r'\b\d{3,5}\s?[x×]\s?\d{3,5}\b')
_DIGITS = re.compile(r'\b\d{7,}\b')
_QUOTES = str.maketrans('“”„«»‘’`´', '"""""\'\'\'\'')
_REPEATED = re.compile(r'([^\w\s])\1{2,}')
# What holds a caption together, left over at either end.
_EDGES = ' \t-–—_|/\\,;:*~'


class NoCaptionError(Exception):
  """A record without a usable caption; its text is the reason."""


def usable(value, *, clean: bool) -> tuple[str, ...]:
  """Returns the texts of a row's value that can be used, stripped.

  Args:
    value: one text or several.
    clean: take out what no picture shows; see `clean_text`.

  Raises:
    NoCaptionError: where there are none; the reason is the last one's.
  """
  reason = 'empty caption'
  good = []
  for raw in table_lib.as_texts(value):
    try:
      caption = _as_text(raw).strip()
    except UnicodeError:
      reason = 'caption is not UTF-8'
      continue
    except TypeError:
      reason = 'caption is not text'
      continue
    # Before it is cleaned, so that what cleaning costs has a bound.
    if len(caption) > pictures.MAX_CAPTION:
      reason = 'caption too long'
      continue
    if clean:
      caption = clean_text(caption)
    # Signs without a width are no words, either.
    if not any(sign.isprintable() and sign != ' ' for sign in caption):
      reason = 'empty caption'
    else:
      good.append(caption)
  if not good:
    raise NoCaptionError(reason)
  return tuple(good)


def clean_text(caption: str) -> str:
  """Returns a caption without what no picture shows; '' if nothing is left.

  Entities become characters, compatibility forms their plain ones (NFKC), and
  quotation marks " or '. Out go HTML tags, addresses, handles, names of picture
  files, sizes in pixels, numbers of 7 digits or more, control characters, and
  a mark that is repeated three times or more, all but one. White space is
  single, and dashes, bars and commas at either end are cut off. Case and
  language stay.
  """
  # Twice: crawled captions are often escaped once more than they should be.
  text = html.unescape(html.unescape(caption))
  text = unicodedata.normalize('NFKC', text).translate(_QUOTES)
  text = ''.join(
    ' ' if unicodedata.category(sign) in ('Cc', 'Zl', 'Zp') else sign
    for sign in text
    if unicodedata.category(sign) != 'Cf' or sign == '\u200d'  # Of emoji.
  )
  for pattern in (_TAG, _ADDRESS, _HANDLE, _FILE, _SIZE, _DIGITS):
    text = pattern.sub(' ', text)
  text = _REPEATED.sub(r'\1', text)
  return ' '.join(text.split()).strip(_EDGES)


def _as_text(raw):
  if raw is None:
    return ''
  if isinstance(raw, bytes):
    return raw.decode()
  if not isinstance(raw, str):
    raise TypeError
  raw.encode()  # JSON may spell half of a surrogate pair.
  return raw
