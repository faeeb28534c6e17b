"""Low-res inputs that stages in front make, for sample grids."""

import dataclasses
import functools
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import export
from imagen_jax import sharding
from imagen_jax.diffusion import process
from imagen_jax.train import lowres
from imagen_jax.train import state as state_lib

COUNT = 3


class Network:
  """Sees a grey that is in its weights, or the mean of its low-res input."""

  def __init__(self, stage):
    self.kind = stage.diffusion.prediction

  def apply(self, params, z, logsnr, cond):
    grey = jnp.tanh(params['stem']['kernel'].mean())
    x = jnp.full_like(z, grey)
    if cond.lowres is not None:
      x = x + 0.1 * cond.lowres.mean((1, 2, 3), keepdims=True)
    return process.from_x(self.kind, x, z, logsnr)


def config(tiny, *assignments):
  return config_lib.override(config_lib.load(f'{tiny}:sr'), assignments)


def examples(places=0.0):
  return {
    'caption': ['a', 'b', 'c'],
    'text_embed': np.zeros((COUNT, 6, 8), np.float32),
    'text_mask': np.ones((COUNT, 6), bool),
    'place': np.full((COUNT, 2), places),
  }


def identity_of(exports):
  return export.load_weights(exports['base']).text_identity


def test_the_exported_weights_draw_them(tiny, exports, monkeypatch):
  bind = lambda stage, params: functools.partial(Network(stage).apply, params)
  monkeypatch.setattr(state_lib, 'bind', bind)
  cfg = config(tiny, f'train.sample_lowres=["{exports["base"]}"]')
  stages = lowres.load(cfg, identity_of(exports))
  kernel = stages[0].params['stem']['kernel']
  grey = np.tanh(np.mean(kernel))
  for sizes in (config_lib.MeshConfig(), config_lib.MeshConfig(2, 2, 2)):
    mesh = sharding.make_mesh(sizes)
    found = lowres.draw(stages, cfg, mesh, examples())
    assert found.shape == (COUNT, 16, 16, 3)
    np.testing.assert_allclose(found, grey, atol=1e-3)
  # A stage more, as it would be in front of a third.
  longer = [*stages, export.load_weights(exports['sr'])]
  wide = dataclasses.replace(
    cfg, stage=dataclasses.replace(cfg.stage, image_size=64, lowres_size=32)
  )
  found = lowres.draw(longer, wide, mesh, examples())
  assert found.shape == (COUNT, 32, 32, 3)
  own = np.tanh(np.mean(longer[1].params['stem']['kernel']))
  # What it is given is corrupted, and so a little less.
  np.testing.assert_allclose(found, own + 0.1 * grey, atol=0.02)


def test_a_stage_on_crops_is_given_crops_of_the_same_place(tiny):
  cfg = config(tiny, 'stage.whole_size=64')
  whole = np.arange(32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)
  for place, crop, corner in (
    ((0.0, 0.99), 'random', (0, 16)),
    ((0.5, 0.0), 'random', (8, 0)),
    ((0.0, 0.0), 'center', (8, 8)),
  ):
    cut = config_lib.override(cfg, [f'data.crop={crop}'])
    (found,) = lowres._cut(whole, np.array([place]), cut)
    left, top = corner
    expected = whole[0, top : top + 16, left : left + 16]
    np.testing.assert_array_equal(found, expected)


def test_stages_that_do_not_fit_are_refused(tiny, exports, tmp_path):
  said = identity_of(exports)
  for folder, words in (
    (exports['sr'], "^train.sample_lowres: stage 'tiny32' takes 16 where"),
    (str(tmp_path), '^train.sample_lowres .* has no manifest.json'),
  ):
    with pytest.raises(ValueError, match=words):
      lowres.load(config(tiny, f'train.sample_lowres=["{folder}"]'), said)
  good = [f'train.sample_lowres=["{exports["base"]}"]']
  base = config_lib.override(config_lib.load(tiny), good)
  with pytest.raises(ValueError, match="stage 'tiny16' takes no image where"):
    lowres.load(base, said)
  with pytest.raises(ValueError, match='train.sample_lowres: stage .*another'):
    lowres.load(config(tiny, *good), {**said, 'checkpoint': 'other'})


def test_an_export_that_was_changed_is_refused(tiny, exports, tmp_path):
  shutil.copytree(exports['base'], tmp_path / 'base')
  (file,) = (tmp_path / 'base').glob('weights-*')
  file.write_bytes(file.read_bytes()[:-1] + b'?')
  cfg = config(tiny, f'train.sample_lowres=["{tmp_path / "base"}"]')
  with pytest.raises(ValueError, match='is not what the manifest has the hash'):
    lowres.load(cfg, identity_of(exports))
