"""Restoring what T5X wrote, and refusing what does not fit."""

import dataclasses
import functools
import json
import shutil

from flax import serialization
from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.text import encoders
from imagen_jax.text import layouts
from imagen_jax.text import restore

MODELS = (
  't5_1_1',
  't5_1_1_bf16',
  't5_1_1_chunked',
  't5_1_1_gcs',
  't5_1_1_orbax',
  't5_1_0',
  'scalable_scan',
  'scalable_loop',
)


def abstract(row, mesh=None):
  boxed = encoders.abstract_params(row)
  leaves = meta.unbox(boxed)
  if mesh is None:
    return leaves
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    leaves,
    sharding.param_shardings(boxed, mesh),
  )


def flat(tree):
  return {
    '/'.join(key.key for key in path): leaf
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


@pytest.fixture
def writable(golden_folder, tmp_path):
  """Copies a golden checkpoint to where it may be damaged."""

  def copy(name):
    folder = tmp_path / name / 'checkpoint_1000'
    shutil.copytree(golden_folder / name / 'checkpoint_1000', folder)
    return folder

  return copy


@functools.cache
def applied(row, dtype=jnp.float32):
  return jax.jit(encoders.build(row, dtype).apply)


def encode(row, params, tokens, mask, dtype=jnp.float32):
  """Outputs of real tokens, computed in a batch of one of two shapes."""
  rows, length = tokens.shape
  shape = (4, 16) if length <= 16 else (1, 160)
  after = [(0, shape[0] - rows), (0, shape[1] - length)]
  outputs = applied(row, dtype)(
    {'params': params}, np.pad(tokens, after), np.pad(mask, after)
  )
  assert outputs.dtype == dtype
  assert np.isfinite(outputs.astype(jnp.float32)).all()
  return np.asarray(outputs, np.float32)[:rows, :length][mask]


@pytest.mark.parametrize('name', MODELS)
def test_outputs_are_t5xs(golden, name):
  checkpoint, row, arrays = golden(name)
  params = restore.restore_encoder(checkpoint, abstract(row))
  cases = {key.split('/')[0] for key in arrays}
  assert {'full', 'padded'} <= cases
  for case in cases:
    mask = arrays[f'{case}/mask'] == 1
    np.testing.assert_allclose(
      encode(row, params, arrays[f'{case}/tokens'], mask),
      arrays[f'{case}/outputs'][mask],
      rtol=0,
      atol=2e-5,
      err_msg=case,
    )


def test_a_text_of_one_token_needs_no_padding(golden):
  checkpoint, row, arrays = golden('t5_1_1')
  params = restore.restore_encoder(checkpoint, abstract(row))
  outputs = applied(row)(
    {'params': params}, arrays['len1/tokens'], np.ones((1, 1), bool)
  )
  np.testing.assert_allclose(outputs, arrays['len1/outputs'], rtol=0, atol=2e-5)


def test_bfloat16_is_as_near_as_t5xs_own(golden):
  # T5X's own bfloat16 outputs are up to 0.052 from its float32 ones; ours keep
  # the softmax in float32.
  checkpoint, row, arrays = golden('t5_1_1')
  leaves = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16),
    abstract(row),
  )
  params = restore.restore_encoder(checkpoint, leaves)

  for case in ('full', 'padded', 'long'):
    mask = arrays[f'{case}/mask'] == 1
    tokens = arrays[f'{case}/tokens']
    outputs = encode(row, params, tokens, mask, jnp.bfloat16)
    for key, tolerance in (('outputs', 0.06), ('outputs_bf16', 0.08)):
      expected = arrays[f'{case}/{key}'][mask].astype(np.float32)
      np.testing.assert_allclose(outputs, expected, rtol=0, atol=tolerance)


def test_values_are_t5xs(golden, golden_folder):
  checkpoint, row, _ = golden('t5_1_1')
  params = flat(restore.restore_encoder(checkpoint, abstract(row)))
  with np.load(golden_folder / 't5_1_1' / 'encoder_params.npz') as expected:
    assert set(params) == set(expected.files)
    for name in expected.files:
      np.testing.assert_array_equal(params[name], expected[name])


@pytest.mark.parametrize('name', ['t5_1_1_chunked', 't5_1_1_orbax'])
def test_restores_into_shards(golden, name):
  checkpoint, row, _ = golden(name)
  mesh = sharding.make_mesh(
    config_lib.MeshConfig(data=1, fsdp=2, model=2), jax.devices()[:4]
  )
  wanted = abstract(row, mesh)
  params = restore.restore_encoder(checkpoint, wanted)
  whole = restore.restore_encoder(checkpoint, abstract(row))

  jax.tree.map(np.testing.assert_array_equal, params, whole)
  for key, leaf in flat(params).items():
    assert leaf.sharding == flat(wanted)[key].sharding
  kernel = flat(params)['encoder/layers_0/mlp/wo/kernel']
  assert kernel.addressable_shards[0].data.shape == (32, 16)


@pytest.mark.parametrize('place', ['', '/checkpoint_1000/checkpoint'])
def test_a_path_may_be_the_parent_or_the_index(golden_folder, golden, place):
  _, row, _ = golden('t5_1_1')
  path = f'{golden_folder}/t5_1_1{place}'
  assert set(layouts.open_checkpoint(path)) == set(flat(abstract(row)))


def test_a_parent_may_be_called_checkpoint(writable):
  folder = writable('t5_1_1')
  parent = folder.parent.parent / 'checkpoint'
  folder.parent.rename(parent)
  assert 'encoder/encoder_norm/scale' in layouts.open_checkpoint(str(parent))


@pytest.mark.parametrize('place', ['', '/checkpoint_1000/state'])
def test_an_orbax_path_may_be_the_parent_or_the_item(golden_folder, place):
  path = f'{golden_folder}/t5_1_1_orbax{place}'
  assert 'encoder/encoder_norm/scale' in layouts.open_checkpoint(path)


def test_the_parent_means_its_newest_finished_step(writable):
  step = writable('t5_1_1')
  other = writable('t5_1_0')
  other.rename(step.parent / 'checkpoint_20000')
  (step.parent / 'checkpoint_30000').mkdir()  # No index: not finished.
  shutil.copytree(step, step.parent / 'checkpoint_40000.tmp-17')

  names = layouts.open_checkpoint(str(step.parent))

  assert 'encoder/layers_0/mlp/wi/kernel' in names  # T5 1.0, step 20000.


def test_an_array_may_lie_in_the_index(golden, writable):
  folder = writable('t5_1_1')
  index = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
  scale = np.arange(32, dtype=np.float32)
  index['optimizer']['target']['encoder']['encoder_norm']['scale'] = scale
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  _, row, _ = golden('t5_1_1')

  params = restore.restore_encoder(str(folder), abstract(row))

  np.testing.assert_array_equal(
    params['encoder']['encoder_norm']['scale'], scale
  )


@pytest.mark.parametrize(
  'rewrite',
  [
    lambda path: {'kvstore': {'driver': 'gfile'}, 'path': path},
    lambda path: {
      'kvstore': {'driver': 'gcs', 'bucket': 't5x-dummy-bucket'},
      'path': path.rstrip('/'),
    },
    lambda path: {'kvstore': {'driver': 'file', 'path': f'/old/{path}'}},
  ],
  ids=['gfile', 'gcs-beside', 'file-absolute'],
)
def test_every_form_of_the_storage_spec(golden, writable, rewrite):
  folder = writable('t5_1_1')
  index = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())

  def rewritten(node):
    if 'driver' not in node:
      return {k: rewritten(v) for k, v in node.items()}
    return {**node, **rewrite(node['kvstore']['path'])}

  index['optimizer']['target'] = rewritten(index['optimizer']['target'])
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  checkpoint, row, _ = golden('t5_1_1')

  params = restore.restore_encoder(str(folder), abstract(row))
  expected = restore.restore_encoder(checkpoint, abstract(row))

  jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_the_index_of_older_orbax(golden, writable):
  """As T5X's facts tell it; no such checkpoint was at hand."""
  folder = writable('t5_1_1')
  index = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())

  def named(node, name):
    if 'driver' in node:
      return f'PLACEHOLDER://{name}'
    return {key: named(value, f'{name}.{key}') for key, value in node.items()}

  index = {'target': named(index['optimizer']['target'], 'target')}
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  checkpoint, row, _ = golden('t5_1_1')

  params = restore.restore_encoder(str(folder), abstract(row))
  expected = restore.restore_encoder(checkpoint, abstract(row))

  jax.tree.map(np.testing.assert_array_equal, params, expected)


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


def test_a_fingerprint_is_of_the_weights_not_the_layout(golden_folder):
  prints = {
    name: restore.fingerprint(str(golden_folder / name)) for name in MODELS
  }
  same = ('t5_1_1', 't5_1_1_chunked', 't5_1_1_gcs', 't5_1_1_orbax')
  assert len({prints[name] for name in same}) == 1
  assert len(set(prints.values())) == len(MODELS) - len(same) + 1


def test_a_fingerprint_sees_a_norm_move(golden, writable):
  folder = writable('t5_1_1')
  index = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
  before = restore.fingerprint(str(folder))
  stored = layouts.open_checkpoint(str(folder))['encoder/encoder_norm/scale']
  scale = np.array(stored.read((slice(None),)))
  scale[3] += 1e-6
  index['optimizer']['target']['encoder']['encoder_norm']['scale'] = scale
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))
  assert restore.fingerprint(str(folder)) != before


def test_the_golden_models_are_described(golden_folder):
  # The tests above take sizes from these files; this holds the files to the
  # shapes that T5X recorded.
  for name in MODELS:
    model = json.loads((golden_folder / name / 'config.json').read_text())
    stored = layouts.open_checkpoint(str(golden_folder / name))
    norm = 'encoder/encoder_norm/scale'
    assert list(stored[norm].shape) == model['params'][norm]['shape']
