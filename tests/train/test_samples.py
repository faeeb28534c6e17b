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

  def make(row, count, **options):
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
    if options.pop('generated', False):
      options['generated'] = examples['lowres'] / 2 + 0.25
    return samples_lib.Sampler(cfg, examples, mesh, **options), examples

  return make


def test_bytes_of_images():
  x = np.array([-1, -0.5, 0, 1], np.float32)
  np.testing.assert_array_equal(samples_lib.to_uint8(x), [0, 64, 128, 255])


@pytest.mark.parametrize('row, count', [('base', 8), ('base', 3), ('sr', 10)])
def test_a_sheet_shows_all(make, row, count):
  sampler, _ = make(row, count)
  drawn = {
    name: sampler.draw({'grey': jnp.float32(grey)})
    for name, grey in (('raw weights', 0.5), ('EMA weights', -0.5))
  }
  size = 16 if row == 'base' else 32
  assert drawn['raw weights'].keys() == {'real'}
  of_real = drawn['raw weights']['real']
  assert of_real.shape == (count, size, size, 3)
  assert of_real.dtype == np.uint8
  np.testing.assert_array_equal(of_real, 191)
  png, shape = sampler.sheet(drawn)
  with Image.open(io.BytesIO(png)) as picture:
    assert picture.size == shape
    pixels = np.asarray(picture.convert('RGB'))
  scale = 96 // size
  for grey in (191, 64):
    flat = (pixels == grey).all(-1).sum()
    # Frames and labels may cover a pixel at a picture's edge.
    assert flat >= 0.9 * count * (size * scale) ** 2


def test_a_sheet_shows_what_is_made_of_generated_low_res_images(make):
  sampler, examples = make('sr', 3, generated=True)
  drawn = {'weights': sampler.draw({'grey': jnp.float32(0.5)})}
  assert drawn['weights'].keys() == {'real', 'generated'}
  png, (_, height) = sampler.sheet(drawn)
  alone, _ = make('sr', 3)
  _, (_, less) = alone.sheet({'weights': {'real': drawn['weights']['real']}})
  # Two rows more: the low-res images, and what is made of them.
  assert height == less + 2 * (3 * 32 + 8)
  with Image.open(io.BytesIO(png)) as picture:
    pixels = np.asarray(picture.convert('RGB')).reshape(-1, 3)
  shown = {tuple(pixel) for pixel in pixels}
  generated = samples_lib.to_uint8(examples['lowres'] / 2 + 0.25)
  assert {tuple(pixel) for pixel in generated.reshape(-1, 3)} <= shown
  flat = (pixels == 191).all(-1).sum()
  assert flat >= 0.9 * 2 * 3 * (32 * 3) ** 2


def test_a_shift_of_colour_and_contrast_is_a_metric(make):
  sampler, examples = make('sr', 4, generated=True)
  data = samples_lib.to_uint8(examples['image'])
  flat = np.full_like(data, 128)
  shifted = flat + np.array([0, 51, 0], np.uint8)
  found = sampler.metrics(
    {
      'sample': {'real': data, 'generated': flat},
      'sample_ema': {'real': flat, 'generated': shifted},
    }
  )
  assert found['sample_shift_g'] == 0
  assert found['sample_contrast'] == 1
  assert found['sample_ema_contrast'] == 0
  assert found['sample_gap_contrast'] == 0
  assert found['sample_ema_gap_shift_g'] == pytest.approx(0.4)
  assert found['sample_ema_gap_shift_r'] == 0
  # The generated low-res images are half as strong, about another grey.
  lowres = examples['lowres'].mean()
  for channel in 'rgb':
    found_shift = found[f'sample_lowres_shift_{channel}']
    assert found_shift == pytest.approx(0.25 - lowres / 2, abs=0.05)
  assert found['sample_lowres_contrast'] == pytest.approx(0.5, abs=0.01)
  base, _ = make('base', 4)
  assert base.metrics({'sample': {'real': flat}}).keys() == {
    'sample_shift_r',
    'sample_shift_g',
    'sample_shift_b',
    'sample_contrast',
  }


def test_a_sheet_names_whose_pictures_it_shows(make):
  sampler, examples = make('base', 8)
  drawn = {'weights': sampler.draw({'grey': jnp.float32(0.5)})}
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
  first, second = sampler.draw(params), sampler.draw(params)
  np.testing.assert_array_equal(first['real'], second['real'])
