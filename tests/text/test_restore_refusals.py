"""Checkpoints of an encoder that are refused, and how that is said."""

import dataclasses
import shutil

from flax import serialization
from golden_files import abstract
import pytest

from imagen_jax.text import layouts
from imagen_jax.text import restore


def test_a_misfit_is_listed(golden):
  checkpoint, row, _ = golden('t5_1_1')
  other = dataclasses.replace(
    row, activation='relu', num_heads=2, vocab_size=256
  )
  with pytest.raises(ValueError) as caught:
    restore.restore_encoder(checkpoint, abstract(other), name='other')
  message = str(caught.value)
  assert "does not fit text.encoder 'other': 2 missing" in message
  assert 'encoder/layers_0/mlp/wi/kernel' in message
  assert '4 extra: encoder/layers_0/mlp/wi_0/kernel' in message
  assert '10 of another shape' in message
  # Every one, however many.
  assert message.count(', not [') == 10
  for name in ('mlp/wi_0/kernel', 'mlp/wi_1/kernel'):
    assert all(f'encoder/layers_{i}/{name}' in message for i in range(2))
  assert '\n' not in message


def test_a_vocabulary_of_another_size_is_listed(golden):
  checkpoint, row, _ = golden('t5_1_1')
  other = dataclasses.replace(row, vocab_size=256)
  with pytest.raises(
    ValueError,
    match=r'1 of another shape: token_embedder/embedding '
    r'\(\[128, 32\], not \[256, 32\]\); the vocabulary is another: 128 rows, '
    'not 256$',
  ):
    restore.restore_encoder(checkpoint, abstract(other))


def test_numbers_that_are_not_floating_are_refused(golden, writable):
  # T5X's version 2 kept bfloat16 as unsigned integers.
  folder = writable('t5_1_1')
  zarray = folder / 'target.encoder.encoder_norm.scale' / '.zarray'
  zarray.write_text(zarray.read_text().replace('<f4', '<u4'))
  _, row, _ = golden('t5_1_1')
  with pytest.raises(
    ValueError,
    match=r'1 of another type: encoder/encoder_norm/scale \(uint32, not float',
  ):
    restore.restore_encoder(str(folder), abstract(row))


def test_a_decoder_alone_is_refused(writable):
  folder = writable('t5_1_1')
  index = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
  del index['optimizer']['target']['encoder']
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  with pytest.raises(ValueError, match='is of a decoder alone'):
    layouts.open_checkpoint(str(folder))
  del index['optimizer']['target']['decoder']
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  with pytest.raises(ValueError, match='holds no parameters of an encoder'):
    layouts.open_checkpoint(str(folder))


def test_a_tensorflow_checkpoint_is_named(tmp_path):
  (tmp_path / 'checkpoint').write_text(
    'model_checkpoint_path: "model.ckpt-1000000"\n'
  )
  with pytest.raises(ValueError, match='is a TensorFlow checkpoint'):
    layouts.open_checkpoint(str(tmp_path))


@pytest.mark.parametrize('size', [0, 1, 40, 5000])
def test_a_truncated_index_is_refused(writable, size):
  index = writable('t5_1_1') / 'checkpoint'
  index.write_bytes(index.read_bytes()[:size])
  with pytest.raises(ValueError, match='is truncated or corrupt'):
    layouts.open_checkpoint(str(index.parent))


def test_an_index_of_something_else_is_refused(tmp_path):
  (tmp_path / 'checkpoint').write_bytes(serialization.msgpack_serialize({}))
  with pytest.raises(ValueError, match='has no optimizer/target'):
    layouts.open_checkpoint(str(tmp_path))


def test_truncated_orbax_metadata_is_refused(writable):
  metadata = writable('t5_1_1_orbax') / 'state' / '_METADATA'
  metadata.write_bytes(metadata.read_bytes()[:1000])
  with pytest.raises(ValueError, match='_METADATA is truncated or corrupt'):
    layouts.open_checkpoint(str(metadata.parent.parent))


def test_truncated_orbax_data_is_refused(golden, writable):
  folder = writable('t5_1_1_orbax')
  for path in (folder / 'state').glob('**/d/*'):
    path.write_bytes(path.read_bytes()[:50])
  _, row, _ = golden('t5_1_1')
  with pytest.raises(ValueError, match='cannot be read'):
    restore.restore_encoder(str(folder), abstract(row))


@pytest.mark.parametrize('damage', ['missing', 'truncated', 'flipped', 'gone'])
def test_a_damaged_chunk_is_refused(golden, writable, damage):
  folder = writable('t5_1_1_chunked')
  array = folder / 'target.encoder.layers_1.mlp.wo.kernel'
  chunk = array / '1.0'
  contents = bytearray(chunk.read_bytes())
  if damage == 'missing':
    chunk.unlink()
  elif damage == 'gone':
    shutil.rmtree(array)
  elif damage == 'truncated':
    chunk.write_bytes(contents[:-20])
  else:
    contents[len(contents) // 2] ^= 1
    chunk.write_bytes(contents)
  _, row, _ = golden('t5_1_1')
  with pytest.raises(
    ValueError, match='encoder/layers_1/mlp/wo/kernel cannot be read'
  ) as caught:
    restore.restore_encoder(str(folder), abstract(row))
  assert '\n' not in str(caught.value)


def test_a_path_without_a_checkpoint_is_refused(tmp_path):
  with pytest.raises(ValueError, match='holds no checkpoint; accepted: a T5X'):
    layouts.open_checkpoint(str(tmp_path))
  with pytest.raises(ValueError, match='no such folder'):
    layouts.open_checkpoint(str(tmp_path / 'absent'))
