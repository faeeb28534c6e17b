"""Sample grids, drawn by a network that is given what it draws."""

import io

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import samples as samples_lib
from imagen_jax.train import state as state_lib


class Network:
  """Says that the clean image is what the parameters are."""

  def apply(self, variables, z, logsnr, cond):
    return z * 0 + variables['params']['grey']


@pytest.fixture
def make(tiny, monkeypatch):
  """Returns a sampler of a row of the tiny config, and its examples."""
  monkeypatch.setattr(state_lib, 'make_network', lambda stage: Network())

  def make(row, count):
    cfg = config_lib.override(
      config_lib.load(f'{tiny}:{row}'),
      ['stage.diffusion.prediction=x', 'stage.diffusion.loss=x'],
    )
    rng = np.random.default_rng(0)
    uniform = lambda size: rng.uniform(-1, 1, (count, size, size, 3)).astype(
      np.float32
    )
    examples = {
      'image': uniform(cfg.stage.image_size),
      'text_embed': np.zeros((count, 6, 8), np.float32),
      'text_mask': np.ones((count, 6), bool),
      'caption': [f'caption {i}' for i in range(count)],
    }
    if cfg.stage.lowres_size:
      examples['lowres'] = uniform(cfg.stage.lowres_size)
    mesh = sharding.make_mesh(cfg.mesh)
    return samples_lib.Sampler(cfg, examples, mesh), examples

  return make


def test_bytes_of_images():
  x = np.array([-1, -0.5, 0, 1], np.float32)
  np.testing.assert_array_equal(samples_lib.to_uint8(x), [0, 64, 128, 255])


@pytest.mark.parametrize('row, count', [('base', 8), ('base', 3), ('sr', 10)])
def test_a_sheet_shows_all(make, row, count):
  sampler, _ = make(row, count)
  params = {'grey': jnp.float32(0.5)}
  drawn = sampler.draw(params)
  size = 16 if row == 'base' else 32
  assert drawn.shape == (count, size, size, 3)
  assert drawn.dtype == np.uint8
  np.testing.assert_array_equal(drawn, 191)
  png, shape = sampler.sheet(drawn)
  with Image.open(io.BytesIO(png)) as picture:
    assert picture.size == shape
    pixels = np.asarray(picture.convert('RGB'))
  scale = 96 // size
  flat = (pixels == 191).all(-1).sum()
  # Frames and labels may cover a pixel at a picture's edge.
  assert flat >= 0.9 * count * (size * scale) ** 2


def test_a_sheet_names_whose_pictures_it_shows(make):
  sampler, examples = make('base', 8)
  drawn = sampler.draw({'grey': jnp.float32(0.5)})
  _, (width, height) = sampler.sheet(drawn)
  said = 'by somebody, CC BY-SA 4.0'
  attributed = samples_lib.Sampler(
    sampler._cfg, examples, sampler._mesh, footer=said
  )
  png, (wide, high) = attributed.sheet(drawn)
  assert wide == width and high > height
  with Image.open(io.BytesIO(png)) as picture:
    foot = np.asarray(picture.convert('L'))[height:]
  assert foot.min() < 128  # There is something to read.


def test_the_same_weights_draw_the_same(make):
  sampler, _ = make('base', 8)
  params = {'grey': jnp.float32(0.25)}
  np.testing.assert_array_equal(sampler.draw(params), sampler.draw(params))
