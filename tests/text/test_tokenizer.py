"""Tokens: those of seqio, for T5; those of tokenizer.json, for BERT."""

import dataclasses
import io

import numpy as np
import pytest
import sentencepiece
import tokenizers

from imagen_jax import config as config_lib
from imagen_jax.text import encoders
from imagen_jax.text import tokenizer as tokenizer_lib

CAPTIONS = [
  'a small red triangle to the left of a large blue circle',
  'two lobsters on a teal background',
  'Ein  Wort mit   Lücken, naïve: Ωμέγα!',
  'zqxj ✨ unknown to it',
]


def train(captions=tuple(CAPTIONS[:2]), **ids):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(captions * 50),
    model_writer=model,
    vocab_size=100,
    hard_vocab_limit=False,
    minloglevel=2,
    **{'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1, **ids},
  )
  return model.getvalue()


@pytest.fixture(scope='module')
def pieces():
  return train()


@pytest.fixture(scope='module')
def words():
  """The bytes of a tokenizer.json like BERT's."""
  vocabulary = {'[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3}
  for word in ' '.join(CAPTIONS).split():
    vocabulary.setdefault(word, len(vocabulary))
  model = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocabulary, unk_token='[UNK]')
  )
  model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
  )
  # As in the published file: another task's padding and truncation.
  model.enable_padding(length=20)
  model.enable_truncation(5)
  return model.to_str().encode()


def test_sentencepiece_gives_seqios_tokens(pieces, tmp_path):
  import seqio  # Brings TensorFlow, which the tokenizer does without.

  path = tmp_path / 'sentencepiece.model'
  path.write_bytes(pieces)
  tokenizer = tokenizer_lib.SentencePieceTokenizer(pieces, 'it')
  ours, num_cut = tokenizer.ragged(CAPTIONS, 64)
  assert num_cut == 0
  for extra_ids in (0, 100):
    vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids)
    assert vocabulary.pad_id == 0
    for ids, caption in zip(ours, CAPTIONS, strict=True):
      expected = vocabulary.encode(caption) + [vocabulary.eos_id]
      assert ids.tolist() == expected


def test_bytes_are_seqios():
  import seqio

  tokenizer = tokenizer_lib.ByteTokenizer()
  vocabulary = seqio.ByteVocabulary()
  captions = [*CAPTIONS, 'Käse \N{CRAB}']
  ours, num_cut = tokenizer.ragged(captions, 200)
  assert num_cut == 0
  for ids, caption in zip(ours, captions, strict=True):
    expected = vocabulary.encode(caption) + [vocabulary.eos_id]
    assert ids.tolist() == expected
  assert vocabulary.pad_id == 0
  assert tokenizer.num_pieces == vocabulary.vocab_size


def test_bytes_that_are_cut_keep_their_end_and_are_counted():
  tokenizer = tokenizer_lib.ByteTokenizer()
  (cut, whole), num_cut = tokenizer.ragged(['abcd', 'abc'], 4)
  assert num_cut == 1
  assert cut.tolist() == whole.tolist() == [100, 101, 102, 1]


def test_byt5_needs_no_vocabulary_and_takes_none():
  text = config_lib.TextConfig('byt5_small', embed_dim=1472)
  assert isinstance(tokenizer_lib.load(text), tokenizer_lib.ByteTokenizer)
  other = dataclasses.replace(text, vocabulary='sentencepiece.model')
  with pytest.raises(ValueError, match="text.vocabulary is .*accepted: ''"):
    tokenizer_lib.load(other)


def test_a_batch_is_padded_and_masked(pieces):
  tokenizer = tokenizer_lib.SentencePieceTokenizer(pieces, 'it')
  ragged, _ = tokenizer.ragged(CAPTIONS[:2], 80)
  tokens, mask, num_cut = tokenizer(CAPTIONS[:2], 80)
  assert (tokens.dtype, tokens.shape, mask.dtype) == (np.int32, (2, 80), bool)
  assert num_cut == 0
  for row, real, ids in zip(tokens, mask, ragged, strict=True):
    np.testing.assert_array_equal(row[real], ids)
    assert real[: len(ids)].all()
    assert not real[len(ids) :].any()
    assert not row[len(ids) :].any()


def test_a_cut_caption_keeps_its_end_and_is_counted(pieces):
  tokenizer = tokenizer_lib.SentencePieceTokenizer(pieces, 'it')
  (whole,), _ = tokenizer.ragged(CAPTIONS[:1], 64)
  (cut, short), num_cut = tokenizer.ragged([CAPTIONS[0], 'a'], len(whole) - 3)
  assert num_cut == 1
  assert cut.tolist() == whole[: len(whole) - 4].tolist() + [1]
  assert short[-1] == 1
  # A caption of just that length is whole.
  (same,), num_cut = tokenizer.ragged(CAPTIONS[:1], len(whole))
  assert num_cut == 0
  np.testing.assert_array_equal(same, whole)


def test_a_tokenizer_json_keeps_its_special_tokens(words):
  tokenizer = tokenizer_lib.JsonTokenizer(words, 'it')
  (two, long), num_cut = tokenizer.ragged(['two lobsters', CAPTIONS[0]], 8)
  assert num_cut == 1
  assert (two[0], two[-1], len(two)) == (2, 3, 4)
  assert (long[0], long[-1], len(long)) == (2, 3, 8)


@pytest.mark.parametrize('caption', ['', ' \t\n'])
def test_an_empty_caption_is_refused(pieces, caption):
  tokenizer = tokenizer_lib.SentencePieceTokenizer(pieces, 'it')
  with pytest.raises(ValueError, match='caption 1 is empty'):
    tokenizer.ragged(['a', caption], 8)


def test_a_length_without_room_is_refused(pieces, words):
  tokenizer = tokenizer_lib.SentencePieceTokenizer(pieces, 'it')
  with pytest.raises(ValueError, match='max_length is 1; accepted: 2 or more'):
    tokenizer.ragged(['a'], 1)
  tokenizer = tokenizer_lib.JsonTokenizer(words, 'it')
  with pytest.raises(ValueError, match='max_length is 2; accepted: 3 or more'):
    tokenizer.ragged(['a'], 2)


def test_corrupt_vocabularies_are_refused(pieces, words):
  with pytest.raises(ValueError, match='v is not a SentencePiece model'):
    tokenizer_lib.SentencePieceTokenizer(pieces[:100], 'v')
  with pytest.raises(ValueError, match='v is not a tokenizer.json'):
    tokenizer_lib.JsonTokenizer(words[:100], 'v')


def test_a_vocabulary_with_other_special_ids_is_refused():
  other = train(pad_id=-1, eos_id=2, unk_id=0, bos_id=1)
  with pytest.raises(ValueError, match='padding -1 and EOS 2; accepted: 0 and'):
    tokenizer_lib.SentencePieceTokenizer(other, 'v')


@pytest.fixture
def tiny(monkeypatch, pieces):
  """A table with a T5 of the test's vocabulary, and a BERT."""
  num = sentencepiece.SentencePieceProcessor(model_proto=pieces).vocab_size()
  row = encoders.Encoder('t5', 8, 1, 1, 8, 8, vocab_size=128, num_pieces=num)
  monkeypatch.setitem(encoders.TABLE, 'tiny', row)


def text(**fields):
  return config_lib.TextConfig(encoder='tiny', embed_dim=8, **fields)


@pytest.mark.parametrize('beside', ['step', 'parent', 'named'])
def test_where_a_vocabulary_is_found(tiny, pieces, tmp_path, beside):
  step = tmp_path / 'checkpoint_1000'
  step.mkdir()
  place = {
    'step': step / 'spiece.model',
    'parent': tmp_path / 'sentencepiece.model',
    'named': tmp_path / 'other.model',
  }[beside]
  place.write_bytes(pieces)
  named = str(place) if beside == 'named' else ''
  found = tokenizer_lib.load(text(checkpoint=str(step), vocabulary=named))
  assert found.ragged(['a'], 9)[0][0][-1] == 1


def test_an_absent_vocabulary_is_refused(tiny, tmp_path):
  with pytest.raises(ValueError, match='no file .*sentencepiece.model or '):
    tokenizer_lib.load(text(checkpoint=str(tmp_path)))


def test_a_vocabulary_of_another_size_is_refused(tiny, tmp_path):
  path = tmp_path / 'sentencepiece.model'
  path.write_bytes(train(('the quick brown fox',)))
  with pytest.raises(ValueError, match="entries; accepted: .*'tiny' has"):
    tokenizer_lib.load(text(vocabulary=str(path)))


def test_a_vocabulary_may_hold_its_extra_pieces(
  tiny, pieces, tmp_path, monkeypatch
):
  row = encoders.TABLE['tiny']
  path = tmp_path / 'sentencepiece.model'
  path.write_bytes(pieces)
  for extra, accepted in ((5, True), (6, False)):
    changed = dataclasses.replace(
      row, num_pieces=row.num_pieces - 5, num_extra=extra
    )
    monkeypatch.setitem(encoders.TABLE, 'tiny', changed)
    if accepted:
      tokenizer_lib.load(text(vocabulary=str(path)))
    else:
      with pytest.raises(ValueError, match=r'accepted: \d+ or \d+, as'):
        tokenizer_lib.load(text(vocabulary=str(path)))


def test_a_fingerprint_is_of_the_contents(pieces):
  one = tokenizer_lib.SentencePieceTokenizer(pieces, 'a').fingerprint
  assert one == tokenizer_lib.SentencePieceTokenizer(pieces, 'b').fingerprint
  assert (
    one
    != tokenizer_lib.SentencePieceTokenizer(
      train(('the quick brown fox',)), 'a'
    ).fingerprint
  )


def test_lengths_are_those_of_captions_that_are_not_cut():
  bytes_of = tokenizer_lib.ByteTokenizer()
  captions = ['a', 'ab' * 500, '\U0001f600' * 7]
  assert bytes_of.lengths(captions) == [2, 1001, 29]
  assert bytes_of.lengths([]) == []
