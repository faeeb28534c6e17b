"""A stage that is trained on crops makes whole pictures."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import sampled
from sampled import PROMPTS
from sampled import pixels

from imagen_jax import config as config_lib
from imagen_jax import export
from imagen_jax import generate
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.diffusion import process
from imagen_jax.train import checkpoint
from imagen_jax.train import state as state_lib


@pytest.fixture(scope='module')
def crops(exports, tmp_path_factory):
  """A stage trained on 32-pixel crops of 64-pixel pictures, exported."""
  folder = tmp_path_factory.mktemp('crops')
  sr = config_lib.from_json(
    (pathlib.Path(exports['sr']) / 'config.json').read_text()
  )
  unet = dataclasses.replace(sr.stage.unet, design='efficient')
  # Static, so that the estimate of a single step can be told by hand.
  sample = dataclasses.replace(sr.stage.sample, num_steps=1, threshold='static')
  stage = dataclasses.replace(
    sr.stage,
    name='tiny64',
    image_size=32,
    lowres_size=16,
    whole_size=64,
    unet=unet,
    sample=sample,
  )
  cfg = dataclasses.replace(sr, stage=stage)
  shapes = sharding.unbox(state_lib.abstract_params(cfg))
  rng = np.random.default_rng(5)
  params = jax.tree.map(
    lambda s: jnp.asarray(rng.normal(0, 0.2, s.shape), s.dtype), shapes
  )
  with checkpoint.Checkpointer(str(folder / 'run')) as checkpointer:
    state = state_lib.TrainState(jnp.int32(1), params, params, ())
    identity = export.load_weights(exports['sr']).text_identity
    checkpointer.save(state, {}, cfg, identity)
  export.export_weights(str(folder / 'run'), str(folder / 'out'))
  return str(folder / 'out')


@pytest.fixture(scope='module')
def three(exports, crops):
  return [
    export.load_weights(f) for f in (exports['base'], exports['sr'], crops)
  ]


def drawn(stages, layout, tiny_encoder, count=2):
  cascade = generate.Cascade(stages, sharding.make_mesh(layout), layout)
  prompts = PROMPTS[:count]
  encoded = tiny_encoder(cascade.text).encode(prompts)
  keys = generate._keys(0, prompts, [0] * count)
  weights = np.full((len(stages), count), 3.0)
  # A key is for one use, but what is drawn is drawn again by hand.
  found = cascade(jax.random.clone(keys), encoded, weights)
  return np.asarray(found), keys, encoded


def test_a_stage_trained_on_crops_makes_whole_pictures(three, tiny_encoder):
  """By one call of its network on the whole, told by hand."""
  layout = config_lib.MeshConfig()
  found, keys, text = drawn(three, layout, tiny_encoder)
  assert found.shape == (2, 64, 64, 3)
  lowres, _, _ = drawn(three[:2], layout, tiny_encoder)
  assert lowres.shape == (2, 32, 32, 3)

  stage, params = three[2].stage, three[2].params
  network = state_lib.make_network(stage)
  shape = (64, 64, 3)

  def draw(key):
    noise, aug = jax.random.split(jax.random.fold_in(key, 2))
    z = jax.random.normal(jax.random.fold_in(noise, 0), shape)
    return z, jax.random.normal(aug, shape)

  z, eps = jax.vmap(draw)(keys)
  level = np.float32(-2 * np.log(np.tan(np.pi / 2 * stage.sample.aug_level)))
  large = jax.image.resize(lowres, z.shape, 'bilinear')
  cond = structs.Cond(
    text,
    lowres=process.diffuse(large, eps, jnp.full(2, level)),
    aug_logsnr=jnp.full(2, level),
  )
  logsnr = jnp.full(2, stage.diffusion.logsnr_min)
  apply = jax.jit(
    lambda given: network.apply({'params': params}, z, logsnr, given)
  )
  with_text, without = (
    apply(given)
    for given in (cond, cond.replace(text=jax.tree.map(jnp.zeros_like, text)))
  )
  v = without + 3 * (with_text - without)
  alpha, sigma = process.alpha_sigma(logsnr[0])
  expected = jnp.clip(alpha * z - sigma * v, -1, 1)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert found.std() > 0.1 and abs(found[0] - found[1]).max() > 0.1


@pytest.mark.parametrize('devices', [2, 4])
def test_devices_may_share_a_whole_picture(devices, three, tiny_encoder):
  alone, _, _ = drawn(three, config_lib.MeshConfig(), tiny_encoder)
  layout = config_lib.MeshConfig(data=-1, fsdp=devices, height='fsdp')
  found, _, _ = drawn(three, layout, tiny_encoder)
  np.testing.assert_allclose(found, alone, atol=1e-4)


def test_a_stage_trained_on_crops_is_for_its_place(three):
  mesh = sharding.make_mesh(config_lib.MeshConfig())
  words = "stage 'tiny64' takes 32 where the stage before it makes 16"
  with pytest.raises(ValueError, match=words):
    generate.Cascade([three[0], three[2]], mesh)


def test_three_stages_from_files_to_files(
  exports, crops, tiny_encoder, tmp_path
):
  """From a picture, half of which is kept: at the whole's size."""
  whole = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  Image.fromarray(whole).save(tmp_path / 'image.png')
  mask = np.zeros((64, 64), np.uint8)
  mask[:, 32:] = 255
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  out, lines = sampled.sample(
    [exports['base'], exports['sr'], crops],
    tmp_path / 'out',
    devices_per_image=2,
    num=4,
    image=str(tmp_path / 'image.png'),
    mask=str(tmp_path / 'mask.png'),
    strength=[1, 1, 1],
  )
  assert len(lines) == 12
  for line in lines:
    assert abs(pixels(out, line)[:, :32] - whole[:, :32]).max() <= 1
