"""A tokenizer that needs no file."""

from imagen_jax.text import tokenizer


class Letters(tokenizer.Tokenizer):
  """A token a letter, in the vocabulary of the golden models."""

  num_special = 1

  def __init__(self):
    super().__init__(b'letters', 100)

  def _encode(self, captions, max_length):
    ids = [[ord(c) % 98 + 2 for c in caption] for caption in captions]
    cut = [len(i) >= max_length for i in ids]
    return [i[: max_length - 1] + [1] for i in ids], cut
