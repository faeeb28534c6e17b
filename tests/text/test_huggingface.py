"""Safetensors of T5 and BERT, written from weights that are known."""

import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from imagen_jax import sharding
from imagen_jax.text import encoders
from imagen_jax.text import huggingface
from imagen_jax.text import layouts
from imagen_jax.text import restore

# T5X's names within a layer, and Hugging Face's.
LAYER = {
  'pre_attention_layer_norm/scale': '0.layer_norm',
  'attention/query/kernel': '0.SelfAttention.q',
  'attention/key/kernel': '0.SelfAttention.k',
  'attention/value/kernel': '0.SelfAttention.v',
  'attention/out/kernel': '0.SelfAttention.o',
  'relpos_bias/rel_embedding': '0.SelfAttention.relative_attention_bias',
  'pre_mlp_layer_norm/scale': '1.layer_norm',
  'mlp/wi/kernel': '1.DenseReluDense.wi',
  'mlp/wi_0/kernel': '1.DenseReluDense.wi_0',
  'mlp/wi_1/kernel': '1.DenseReluDense.wi_1',
  'mlp/wo/kernel': '1.DenseReluDense.wo',
}
WHOLE = {
  'token_embedder/embedding': 'shared',
  'encoder/encoder_norm/scale': 'encoder.final_layer_norm',
  'encoder/relpos_bias/rel_embedding': (
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias'
  ),
}


def abstract(row):
  return sharding.unbox(encoders.abstract_params(row))


def flat(tree):
  return {
    '/'.join(key.key for key in path): np.asarray(leaf)
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def exported(params):
  """The parameters as `transformers` would save them, decoder and all."""
  tensors = {
    'decoder.block.0.layer.0.SelfAttention.q.weight': np.zeros((2, 2), 'f4'),
    'decoder.final_layer_norm.weight': np.zeros(2, 'f4'),
    'lm_head.weight': np.zeros((4, 2), 'f4'),
  }
  for name, value in flat(params).items():
    theirs = WHOLE.get(name)
    if theirs is None:
      number, inside = re.fullmatch(r'encoder/layers_(\d+)/(.*)', name).groups()
      theirs = f'encoder.block.{number}.layer.{LAYER[inside]}'
    if value.ndim == 3:
      split = 2 if name.endswith('out/kernel') else 1
      value = value.reshape(np.prod(value.shape[:split]), -1)
    if value.ndim == 2 and theirs != 'shared':
      value = value.T
    tensors[f'{theirs}.weight'] = np.ascontiguousarray(value)
  return tensors


def save(folder, tensors, shards=1):
  """Writes a single file, or `shards` of them with an index."""
  folder.mkdir(exist_ok=True)
  if shards == 1:
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    return
  places = {}
  for number in range(shards):
    name = f'model-{number + 1:05}-of-{shards:05}.safetensors'
    part = dict(list(tensors.items())[number::shards])
    safetensors.numpy.save_file(part, folder / name, metadata={'format': 'pt'})
    places |= dict.fromkeys(part, name)
  index = {'metadata': {'total_size': 1}, 'weight_map': places}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))


@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('name', ['t5_1_1', 't5_1_0', 'scalable_loop'])
def test_t5_is_restored_as_from_t5x(golden, tmp_path, name, shards):
  checkpoint, row, _ = golden(name)
  params = restore.restore_encoder(checkpoint, abstract(row))
  save(tmp_path / 'hf', exported(params), shards)
  again = restore.restore_encoder(str(tmp_path / 'hf'), abstract(row))
  jax.tree.map(np.testing.assert_array_equal, again, params)
  assert restore.fingerprint(str(tmp_path / 'hf')) == (
    restore.fingerprint(checkpoint)
  )


def test_an_encoder_alone_in_bfloat16(golden, tmp_path):
  checkpoint, row, _ = golden('t5_1_1')
  params = restore.restore_encoder(checkpoint, abstract(row))
  tensors = {
    name: value.astype(ml_dtypes.bfloat16)
    for name, value in exported(params).items()
    if not name.startswith(('decoder.', 'lm_head.'))
  }
  tensors['encoder.embed_tokens.weight'] = tensors.pop('shared.weight')
  save(tmp_path, tensors)
  again = restore.restore_encoder(
    str(tmp_path / 'model.safetensors'), abstract(row)
  )
  for name, value in flat(params).items():
    rounded = value.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(flat(again)[name], rounded, err_msg=name)


def test_a_misfit_is_listed_under_our_names(golden, tmp_path):
  checkpoint, row, _ = golden('t5_1_1')
  tensors = exported(restore.restore_encoder(checkpoint, abstract(row)))
  del tensors['encoder.block.1.layer.1.DenseReluDense.wo.weight']
  tensors['encoder.block.0.adapter.weight'] = np.zeros(3, 'f4')
  tensors['encoder.final_layer_norm.weight'] = np.zeros(31, 'f4')
  tensors['encoder.block.0.layer.1.layer_norm.weight'] = np.zeros(32, 'i1')
  save(tmp_path, tensors)
  with pytest.raises(ValueError) as caught:
    restore.restore_encoder(str(tmp_path), abstract(row), name='tiny')
  message = str(caught.value)
  assert "does not fit text.encoder 'tiny'" in message
  assert '1 missing: encoder/layers_1/mlp/wo/kernel' in message
  assert '1 extra: encoder/block/0/adapter/weight' in message
  assert 'encoder/encoder_norm/scale ([31], not [32])' in message
  assert 'pre_mlp_layer_norm/scale (int8, not floating)' in message


@pytest.mark.parametrize(
  'name',
  [
    'transformer.h.0.attn.c_attn.weight',  # GPT-2
    'model.layers.0.self_attn.q_proj.weight',  # Llama
    'model.decoder.layers.0.fc1.weight',  # OPT
    'gpt_neox.layers.0.attention.dense.weight',
    'decoder.block.0.layer.0.SelfAttention.q.weight',  # half a T5
  ],
)
def test_a_decoder_alone_is_refused(tmp_path, name):
  save(tmp_path, {name: np.zeros((2, 2), 'f4')})
  with pytest.raises(ValueError, match='text.checkpoint .* of a decoder alone'):
    layouts.open_checkpoint(str(tmp_path))


def test_an_embedding_alone_is_refused(tmp_path):
  save(tmp_path, {'shared.weight': np.zeros((4, 2), 'f4')})
  with pytest.raises(ValueError, match='holds no parameters of an encoder'):
    layouts.open_checkpoint(str(tmp_path))


def test_truncated_files_are_refused(tmp_path):
  save(tmp_path, {'a': np.zeros((8, 8), np.float32)})
  path = tmp_path / 'model.safetensors'
  whole = path.read_bytes()
  for size in (0, 5, 30, len(whole) - 9):
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match='is truncated or corrupt') as caught:
      layouts.open_checkpoint(str(tmp_path))
    assert '\n' not in str(caught.value)


def test_an_index_without_its_files_is_refused(golden, tmp_path):
  checkpoint, row, _ = golden('t5_1_1')
  tensors = exported(restore.restore_encoder(checkpoint, abstract(row)))
  save(tmp_path, tensors, shards=2)
  second = tmp_path / 'model-00002-of-00002.safetensors'
  contents = second.read_bytes()
  second.unlink()
  with pytest.raises(ValueError, match=f'are missing: {second.name}'):
    layouts.open_checkpoint(str(tmp_path))
  safetensors.numpy.save_file({'a': np.zeros(1)}, second)
  with pytest.raises(ValueError, match='names 12 tensors that its files lack'):
    layouts.open_checkpoint(str(tmp_path))
  second.write_bytes(contents)
  index = tmp_path / huggingface.INDEX
  index.write_text(index.read_text()[:50])
  with pytest.raises(ValueError, match='index.json is truncated or corrupt'):
    layouts.open_checkpoint(str(tmp_path))


def test_several_folders_are_refused(tmp_path):
  for name in 'ab':
    save(tmp_path / name, {'a': np.zeros(1)})
  with pytest.raises(ValueError, match='2 folders with model.safetensors'):
    layouts.open_checkpoint(str(tmp_path))


def test_a_bucket_of_safetensors_is_refused(monkeypatch):
  monkeypatch.setattr(
    huggingface.files, 'names', lambda *args: ['model.safetensors']
  )
  with pytest.raises(ValueError, match='accepted: a copy on a local disk'):
    huggingface.find('gs://bucket/t5')


def test_another_model_does_not_fit(tmp_path):
  save(tmp_path, {'some.weight': np.zeros((4, 2), np.float32)})
  leaves = abstract(encoders.get('minilm_l6'))
  with pytest.raises(ValueError, match='101 missing.*1 extra: some/weight'):
    restore.restore_encoder(str(tmp_path), leaves, name='minilm_l6')


@pytest.mark.parametrize('prefix', ['', 'bert.'])
@pytest.mark.parametrize('norm', [('weight', 'bias'), ('gamma', 'beta')])
def test_bert_is_restored_from_either_spelling(tmp_path, prefix, norm):
  row = encoders.Encoder('bert', 8, 1, 2, 4, 16, vocab_size=20, num_pieces=20)
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  scale, bias = norm
  layer = 'encoder.layer.0'
  bare = {
    'embeddings.word_embeddings.weight': draw(20, 8),
    'embeddings.position_embeddings.weight': draw(512, 8),
    'embeddings.token_type_embeddings.weight': draw(2, 8),
    f'embeddings.LayerNorm.{scale}': draw(8),
    f'embeddings.LayerNorm.{bias}': draw(8),
    f'{layer}.attention.output.LayerNorm.{scale}': draw(8),
    f'{layer}.attention.output.LayerNorm.{bias}': draw(8),
    f'{layer}.output.LayerNorm.{scale}': draw(8),
    f'{layer}.output.LayerNorm.{bias}': draw(8),
  }
  shapes = {
    'attention.self.query': (8, 8),
    'attention.self.key': (8, 8),
    'attention.self.value': (8, 8),
    'attention.output.dense': (8, 8),
    'intermediate.dense': (16, 8),
    'output.dense': (8, 16),
  }
  for name, shape in shapes.items():
    bare[f'{layer}.{name}.weight'] = draw(*shape)
    bare[f'{layer}.{name}.bias'] = draw(shape[0])
  heads = {
    'cls.predictions.bias': draw(20),
    f'{prefix}pooler.dense.weight': draw(8, 8),
  }
  named = {prefix + name: value for name, value in bare.items()}
  save(tmp_path, named | heads)

  params = flat(restore.restore_encoder(str(tmp_path), abstract(row)))

  def same(ours, theirs):
    np.testing.assert_array_equal(params[ours], theirs)

  assert len(params) == len(bare)
  same('layers_0/wi/kernel', bare[f'{layer}.intermediate.dense.weight'].T)
  same('layers_0/wo/bias', bare[f'{layer}.output.dense.bias'])
  same('layers_0/mlp_norm/scale', bare[f'{layer}.output.LayerNorm.{scale}'])
  same('embed_norm/bias', bare[f'embeddings.LayerNorm.{bias}'])
  same('token_embedder/embedding', bare['embeddings.word_embeddings.weight'])
