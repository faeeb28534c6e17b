"""Captions to tokens, without TensorFlow.

T5's vocabulary is read by `sentencepiece` itself, since seqio's needs
TensorFlow, and ByT5's needs no file; tests hold both to seqio's tokens. BERT's
tokenizer.json is read by the `tokenizers` package.
"""

import abc
import hashlib

import numpy as np
import sentencepiece
import tokenizers

from imagen_jax import config as config_lib
from imagen_jax import storage
from imagen_jax.text import encoders
from imagen_jax.text import files
from imagen_jax.text import layouts

FIELD = 'text.vocabulary'
# Names under which vocabularies lie beside checkpoints.
_BESIDE = {
  't5': ('sentencepiece.model', 'spiece.model'),
  'bert': ('tokenizer.json', 'model/tokenizer.json'),
}
_EOS = 1  # T5's id of the end of a text; 0 pads.
_FIRST_BYTE = 3  # ByT5's id of byte 0, behind padding, EOS and unknown.


class Tokenizer(abc.ABC):
  """Captions to tokens of one vocabulary; token 0 pads.

  Attributes:
    num_pieces: entries of the vocabulary.
    num_special: tokens added to every caption.
    fingerprint: short hash of the vocabulary's file.
  """

  num_special: int

  def __init__(self, contents: bytes, num_pieces: int):
    self.num_pieces = num_pieces
    self.fingerprint = hashlib.sha256(contents).hexdigest()[:32]

  @abc.abstractmethod
  def _encode(self, captions, max_length):
    """Returns a list of token lists, and for each whether it was cut."""

  def ragged(
    self, captions: list[str], max_length: int
  ) -> tuple[list[np.ndarray], int]:
    """Returns the tokens of each caption, int32 [l], and how many were cut.

    A caption over `max_length` tokens keeps its first ones and the token that
    ends a text.

    Raises:
      ValueError: for an empty caption, or a length without room for text.
    """
    if max_length <= self.num_special:
      raise ValueError(
        f'text.max_length is {max_length}; accepted: '
        f'{self.num_special + 1} or more, as each caption has '
        f'{self.num_special} special tokens'
      )
    for i, caption in enumerate(captions):
      if not caption.strip():
        raise ValueError(f'caption {i} is empty ({caption!r}); accepted: text')
    tokens, cut = self._encode(captions, max_length)
    return [np.asarray(ids, np.int32) for ids in tokens], sum(cut)

  def lengths(self, captions: list[str]) -> list[int]:
    """Returns how many tokens each caption has, uncut, with special ones."""
    # No caption of ours has more: each takes a character at least, or a byte
    # of its four.
    most = max(map(len, captions), default=1)
    longest = self.num_special + 4 * most
    return [len(ids) for ids in self.ragged(captions, longest)[0]]

  def __call__(
    self, captions: list[str], max_length: int
  ) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns tokens int32 [B, L], mask bool [B, L], and how many were cut.

    L is `max_length`. Raises what `ragged` raises.
    """
    tokens, num_cut = self.ragged(captions, max_length)
    return *pad(tokens, len(tokens), max_length), num_cut


def pad(tokens, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns ragged tokens as int32 [rows, length], and bool where they are."""
  padded = np.zeros((rows, length), np.int32)
  mask = np.zeros((rows, length), bool)
  for i, ids in enumerate(tokens):
    padded[i, : len(ids)] = ids
    mask[i, : len(ids)] = True
  return padded, mask


class SentencePieceTokenizer(Tokenizer):
  """T5's: the pieces, then EOS."""

  num_special = 1

  def __init__(self, contents: bytes, path: str):
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_proto=contents)
    except RuntimeError as error:
      raise ValueError(
        f'{FIELD} {path} is not a SentencePiece model, or is corrupt'
      ) from error
    super().__init__(contents, self._model.vocab_size())
    if self._model.eos_id() != _EOS or self._model.pad_id() != 0:
      raise ValueError(
        f'{FIELD} {path} has padding {self._model.pad_id()} and EOS '
        f'{self._model.eos_id()}; accepted: 0 and {_EOS}, as T5 has'
      )

  def _encode(self, captions, max_length):
    pieces = self._model.encode(list(captions), out_type=int)
    cut = [len(ids) > max_length - 1 for ids in pieces]
    return [ids[: max_length - 1] + [_EOS] for ids in pieces], cut


class ByteTokenizer(Tokenizer):
  """ByT5's: the bytes of UTF-8, then EOS. A cut may part a character."""

  num_special = 1

  def __init__(self):
    super().__init__(encoders.BYTES.encode(), 256 + _FIRST_BYTE)

  def _encode(self, captions, max_length):
    codes = [caption.encode() for caption in captions]
    cut = [len(code) > max_length - 1 for code in codes]
    tokens = [
      [byte + _FIRST_BYTE for byte in code[: max_length - 1]] + [_EOS]
      for code in codes
    ]
    return tokens, cut


class JsonTokenizer(Tokenizer):
  """That of a tokenizer.json, with the special tokens that it asks for."""

  def __init__(self, contents: bytes, path: str):
    try:
      self._model = tokenizers.Tokenizer.from_buffer(contents)
    except Exception as error:  # tokenizers raises Exception itself.
      raise ValueError(
        f'{FIELD} {path} is not a tokenizer.json, or is corrupt'
      ) from error
    super().__init__(contents, self._model.get_vocab_size())
    # The file's own padding and truncation are those of another task.
    self._model.no_padding()
    self.num_special = self._model.num_special_tokens_to_add(is_pair=False)

  def _encode(self, captions, max_length):
    self._model.enable_truncation(max_length)
    encodings = self._model.encode_batch(list(captions))
    cut = [bool(encoding.overflowing) for encoding in encodings]
    return [encoding.ids for encoding in encodings], cut


def load(text: config_lib.TextConfig) -> Tokenizer:
  """Returns the tokenizer of a config's encoder.

  Raises:
    ValueError: where the vocabulary is not found, corrupt, or not of the size
      that the encoder was trained with.
  """
  encoder = encoders.get(text.encoder)
  if encoder.vocabulary == encoders.BYTES:
    if text.vocabulary:
      raise ValueError(
        f"{FIELD} is {text.vocabulary!r}; accepted: '', since text.encoder "
        f'{text.encoder!r} reads bytes'
      )
    return ByteTokenizer()
  path, contents = _find(text, encoder)
  kinds = {'t5': SentencePieceTokenizer, 'bert': JsonTokenizer}
  tokenizer = kinds[encoder.family](contents, path)
  accepted = {encoder.num_pieces, encoder.num_pieces + encoder.num_extra}
  if tokenizer.num_pieces not in accepted:
    raise ValueError(
      f'{FIELD} {path} has {tokenizer.num_pieces} entries; accepted: '
      f'{" or ".join(map(str, sorted(accepted)))}, as text.encoder '
      f'{text.encoder!r} has'
    )
  return tokenizer


def _find(text, encoder):
  """Returns the vocabulary's path and bytes."""
  if text.vocabulary:
    paths = [files.resolve(text.vocabulary, FIELD)]
  else:
    folder = files.resolve(text.checkpoint or encoder.checkpoint, layouts.FIELD)
    folders = [folder]
    if 'checkpoint' in folder.rpartition('/')[2]:
      folders.append(folder.rpartition('/')[0])  # Beside the step folder.
    beside = _BESIDE[encoder.family]
    paths = [f'{f}/{name}' for f in folders for name in beside]
    paths += [encoder.vocabulary] if encoder.vocabulary else []
  for path in paths:
    contents = storage.read(path, FIELD)
    if contents is not None:
      return path, contents
  raise ValueError(
    f'{FIELD} is {text.vocabulary!r}: no file {" or ".join(paths)}; accepted: '
    'a SentencePiece model for T5, a tokenizer.json for BERT'
  )
