"""Captions: which are usable, and what cleaning takes out."""

import pytest

from imagen_jax.data import captions


@pytest.mark.parametrize(
  'text, wanted',
  [
    ('A cat, on a mat.', 'A cat, on a mat.'),
    ('  two\n\nlines\tand more ', 'two lines and more'),
    ('Tom &amp;amp; Jerry &quot;live&quot;', 'Tom & Jerry "live"'),
    ('<p class="a">A <b>dog</b></p>', 'A dog'),
    ('3 < 4 and 5 > 2', '3 < 4 and 5 > 2'),
    ('see https://a.b/c?d=e and www.shop.com now', 'see and now'),
    ('mail me.too@some-shop.co.uk', 'mail'),
    ('by @someone #4711', 'by'),
    ('a #hashtag stays', 'a #hashtag stays'),
    ('IMG_1234.JPG | A dog', 'A dog'),
    ('poster 1920x1080 of 1200 × 800', 'poster of'),
    ('in 2019, item 12345678', 'in 2019, item'),
    ('wow!!!!! really...', 'wow! really.'),
    ('“quoted” ‘text’', '"quoted" \'text\''),
    ('ﬁne ｆｕｌｌ width', 'fine full width'),
    ('zero\u200bwidth\ufeff and \x07bell', 'zerowidth and bell'),
    ('- a dash -', 'a dash'),
    ('Café à la crème 猫 кот', 'Café à la crème 猫 кот'),
    ('👩\u200d🚀 in space', '👩\u200d🚀 in space'),
    ('www.only.com', ''),
  ],
)
def test_what_no_picture_shows_is_taken_out(text, wanted):
  assert captions.clean_text(text) == wanted
  assert captions.clean_text(wanted) == wanted


def test_long_texts_are_cleaned_in_no_time():
  """Patterns that go back and forth would take for ever on these."""
  for piece in ('<', '<a', 'a.', 'a@', '-', '1', 'w', '&', '1x', '#', '/'):
    assert len(captions.clean_text(piece * (2000 // len(piece)))) <= 2000


def test_the_last_reason_is_told():
  with pytest.raises(captions.NoCaptionError, match='^caption is not text$'):
    captions.usable(['', 3], clean=False)
  with pytest.raises(captions.NoCaptionError, match='^caption is not UTF-8$'):
    captions.usable([3, '\ud800'], clean=False)
  with pytest.raises(captions.NoCaptionError, match='^empty caption$'):
    captions.usable(['www.a.com'], clean=True)
  with pytest.raises(captions.NoCaptionError, match='^empty caption$'):
    captions.usable(None, clean=False)
  assert captions.usable('www.a.com', clean=False) == ('www.a.com',)


@pytest.mark.parametrize('text', ['', ' \n', '\u200b', ' \ufeff \u200d\0'])
def test_what_shows_nothing_is_empty(text):
  with pytest.raises(captions.NoCaptionError, match='^empty caption$'):
    captions.usable(text, clean=False)
  assert captions.usable(text + '猫', clean=False)[0][-1] == '猫'
