"""One text encoder for all stages of a cascade, and for its prompts."""

import logging
import types

import pytest

from imagen_jax import config as config_lib
from imagen_jax.text import agreement
from imagen_jax.text import identity as identity_lib

TEXT = config_lib.TextConfig('fake', 'here', max_length=8, embed_dim=4)
CONTENTS = {'checkpoint': 'c', 'vocabulary': 'v'}


def stage(name, known=True, text=TEXT, **changes):
  identity = identity_lib.declared(text) | CONTENTS | changes
  return types.SimpleNamespace(
    stage=types.SimpleNamespace(name=name),
    text=text,
    text_identity=identity if known else None,
  )


@pytest.fixture(autouse=True)
def read(monkeypatch):
  """What lies where a config says."""
  contents = dict(CONTENTS)
  monkeypatch.setattr(
    identity_lib, 'of', lambda text: identity_lib.declared(text) | contents
  )
  return contents


@pytest.mark.parametrize('name', ['checkpoint', 'vocabulary'])
@pytest.mark.parametrize('between', [True, False])
def test_stages_of_two_encoders_are_refused(name, between):
  # Also where one that does not know stands first.
  stages = [stage('a', between), stage('b'), stage('c', **{name: 'x'})]
  words = (
    rf"stage 'c' has another text.{name} \('x'\) than the stages before it "
    rf"\('{CONTENTS[name]}'\); accepted: stages trained with one encoder$"
  )
  with pytest.raises(ValueError, match=words):
    agreement.check_stages(stages)


def test_what_configs_state_is_compared_without_identities():
  longer = config_lib.TextConfig('fake', max_length=9, embed_dim=4)
  stages = [stage('a', False), stage('b', False, longer)]
  with pytest.raises(ValueError, match=r"'b' has another text.max_length \(9"):
    agreement.check_stages(stages)


def test_how_embeddings_were_kept_is_no_difference(caplog):
  small = config_lib.TextConfig(
    'fake', 'there', max_length=8, embed_dim=4, stored_dtype='int8'
  )
  stages = [stage('a'), stage('b', True, small)]
  agreement.check_stages(stages)
  agreement.check_encoder(TEXT, stages)
  assert not caplog.records


def test_another_encoder_is_refused(read):
  read['checkpoint'] = 'x'
  words = (
    "^--text-checkpoint: here is not the text encoder that stage 'b' was "
    "trained with, by fingerprint: checkpoint 'x', not 'c'; accepted: the same"
  )
  with pytest.raises(ValueError, match=words):
    agreement.check_encoder(TEXT, [stage('a', False), stage('b')])


def test_what_is_not_checked_is_said(read, caplog):
  read['checkpoint'] = 'x'
  with caplog.at_level(logging.WARNING):
    agreement.check_encoder(TEXT, [stage('a', False), stage('b', False)])
  (record,) = caplog.records
  assert record.getMessage().endswith('is not checked for them: a, b')
