import pytest

from imagen_jax.synthetic import words


@pytest.mark.parametrize(
  'noun, expected',
  [
    ('lobster', 'a'),
    ('octopus', 'an'),
    ('umbrella', 'an'),
    ('unicorn', 'a'),
    ('euro banknote', 'a'),
    ('one-piece swimsuit', 'a'),
    ('orange background', 'an'),
    ('e-mail', 'an'),
  ],
)
def test_article(noun, expected):
  assert words.article(noun) == expected


@pytest.mark.parametrize(
  'name, expected',
  [
    ('lobster', 'lobsters'),
    ('fox', 'foxes'),
    ('trolleybus', 'trolleybuses'),
    ('small red cross', 'small red crosses'),
    ('butterfly', 'butterflies'),
    ('turkey', 'turkeys'),
    ('maple leaf', 'maple leaves'),
    ('snowman', 'snowmen'),
    ('fish', 'fish'),
    ('tomato', 'tomatoes'),
    ('piano', 'pianos'),
    ('bowl with spoon', 'bowls with spoon'),
    ('flag of Hungary', 'flags of Hungary'),
    ('woman surfing', 'women surfing'),
    ('slightly frowning face', 'slightly frowning faces'),
    ('leaf fluttering in wind', 'leaves fluttering in wind'),
  ],
)
def test_plural(name, expected):
  assert words.plural(name) == expected


@pytest.mark.parametrize(
  'name, expected',
  [
    ('french fries', True),
    ('busts in silhouette', True),
    ('people hugging', True),
    ('skis', True),
    ('trolleybus', False),
    ('hibiscus', False),
    ('dress', False),
    ('rhinoceros', False),
    ('bowl with spoons', False),
  ],
)
def test_is_plural(name, expected):
  assert words.is_plural(name) == expected
