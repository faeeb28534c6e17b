"""English for captions: number words, articles and plurals."""

import re

NUMBERS = ('zero', 'one', 'two', 'three', 'four')

_IRREGULAR = {
  'man': 'men',
  'woman': 'women',
  'person': 'people',
  'child': 'children',
  'foot': 'feet',
  'tooth': 'teeth',
  'goose': 'geese',
  'mouse': 'mice',
  'ox': 'oxen',
  'leaf': 'leaves',
  'knife': 'knives',
  'loaf': 'loaves',
  'wolf': 'wolves',
  'elf': 'elves',
  'scarf': 'scarves',
  'potato': 'potatoes',
  'tomato': 'tomatoes',
  'mango': 'mangoes',
  'mosquito': 'mosquitoes',
  'volcano': 'volcanoes',
  'tornado': 'tornadoes',
  'torpedo': 'torpedoes',
  'superhero': 'superheroes',
  'buffalo': 'buffaloes',
  'axe': 'axes',
}
_UNCHANGED = frozenset(
  ('fish', 'sheep', 'deer', 'bison', 'moose', 'shrimp', 'squid', 'aircraft')
)
# Singular in spite of its end, and plural in spite of it.
_SINGULAR = frozenset(('rhinoceros', 'biceps'))
_PLURAL = frozenset(('skis',))
# A name is a head noun and what is said about it: 'bowl with spoon'.
_ABOUT = re.compile(
  r' (?:with|of|in|on|at|and|behind|facing|for|to|without|from|over|off|'
  r'showing|pointing|by|curving|tilted|fluttering)\b.*'
)
# 'woman surfing', but not 'grinning face'.
_DOING = re.compile(r'(?:person|people|(?:wo)?m[ae]n)( \w+ing\b.*)')


def article(noun: str) -> str:
  """Returns 'a' or 'an', as `noun` is spoken."""
  vowel = re.match(r'[aeiou]', noun, re.IGNORECASE)
  # 'a unicorn', 'a euro', 'a one-piece swimsuit', 'a UFO'.
  consonant = re.match(r'uni|eu|uk|ut|us|one|UP|UFO', noun)
  return 'an' if vowel and not consonant else 'a'


def is_plural(name: str) -> bool:
  """Whether a name such as 'french fries' already names several things."""
  noun = _split(name)[0].split(' ')[-1]
  ends_so = re.search(r'[^suix]s$', noun) is not None
  irregular = _PLURAL | set(_IRREGULAR.values())
  return noun in irregular or (ends_so and noun not in _SINGULAR)


def plural(name: str) -> str:
  """Returns the plural of a name such as 'fire engine' or 'bowl with spoon'."""
  head, about = _split(name)
  *before, noun = head.split(' ')
  return ' '.join([*before, _plural_noun(noun)]) + about


def _split(name):
  """Returns the part of `name` that ends with its head noun, and the rest."""
  match = _ABOUT.search(name)
  cut = match.start() if match else len(name)
  doing = _DOING.match(name)
  if doing:
    cut = min(cut, doing.start(1))
  return name[:cut], name[cut:]


def _plural_noun(noun):
  if noun in _UNCHANGED:
    return noun
  if noun in _IRREGULAR:
    return _IRREGULAR[noun]
  for singular in ('man', 'woman', 'child', 'goose', 'mouse'):
    if noun.endswith(singular):  # 'snowman'
      return noun.removesuffix(singular) + _IRREGULAR[singular]
  if re.search(r'[^aeiou]y$', noun):
    return noun[:-1] + 'ies'
  if re.search(r'(s|x|z|ch|sh)$', noun):
    return noun + 'es'
  return noun + 's'
