"""The loss on held-out examples, of networks that are known."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_stages

from imagen_jax import config as config_lib
from imagen_jax import evaluate
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.diffusion import process
from imagen_jax.train import state as state_lib

LEVELS = (-4.0, 0.0, 3.0)
COUNT = 13


class Network:
  """Whose clean image is its parameters' share of what it is given, plus one.

  Whatever it predicts; the share is of z or, where there is one, of the low-res
  image.
  """

  def __init__(self, stage):
    self.kind = stage.diffusion.prediction

  def apply(self, variables, z, logsnr, cond):
    if self.kind == 'edm':
      c_in, _, _ = process.edm_scales(process.broadcast(logsnr, z), 0.5)
      z = z / c_in
    given = z if cond.lowres is None else cond.lowres
    x = variables['params']['share'] * given + variables['params']['grey']
    if cond.x_last is not None:
      x = x + cond.x_last
    return process.from_x(self.kind, x, z, logsnr)


def config(stage, **train):
  settings = {
    'batch_size': 8,
    'num_eval_examples': COUNT,
    'eval_logsnr': LEVELS,
    **train,
  }
  return config_lib.Config(
    stage=stage, train=config_lib.TrainConfig(**settings)
  )


def rows(start, stop, stage):
  """Examples by number; those that were not asked for are no numbers."""

  def each(number, size):
    picture = np.random.default_rng(number).uniform(-1, 1, (size, size, 3))
    return picture if number < COUNT else np.full_like(picture, np.nan)

  pictures = lambda size: np.stack(
    [each(number, size) for number in range(start, stop)]
  ).astype(np.float32)
  count = stop - start
  return structs.Batch(
    image=pictures(stage.image_size),
    text=structs.TextCond(
      np.zeros((count, 3, 5), np.float32), np.ones((count, 3), bool)
    ),
    lowres=stage.lowres_size and pictures(stage.lowres_size),
  )


@pytest.fixture
def measure(monkeypatch):
  """Measures `Network` on one host that has all examples."""
  monkeypatch.setattr(state_lib, 'make_network', Network)

  def measure(cfg, share=0.0, grey=0.25, layout=None):
    mesh = sharding.make_mesh(layout or config_lib.MeshConfig())
    size = evaluate.batch_size(cfg, sharding.num_batch_shards(mesh, cfg.mesh))

    def batches():
      for start in range(0, 100, size):
        yield rows(start, start + size, cfg.stage)

    params = {'share': jnp.float32(share), 'grey': jnp.float32(grey)}
    with sharding.use_mesh(mesh, cfg.mesh):
      evaluator = evaluate.Evaluator(cfg, mesh, batches)
      return evaluator.measure({'eval': params})

  return measure


@pytest.mark.parametrize('kind', ['x', 'eps', 'v', 'edm'])
def test_what_a_run_predicts_and_weighs_changes_nothing(kind, measure):
  """Of a network that always sees grey, the error in x is known."""
  stage = tiny_stages.with_(
    tiny_stages.BASE,
    diffusion={'prediction': kind, 'loss': kind, 'weighting': 'min_snr'},
  )
  found = measure(config(stage))
  x = rows(0, COUNT, stage).image
  wanted = np.mean((x - 0.25) ** 2)
  for level, name in zip(LEVELS, ('m4', '0', '3')):
    np.testing.assert_allclose(
      found[f'eval_x_loss/snr_{name}'], wanted, rtol=1e-4
    )
    np.testing.assert_allclose(
      found[f'eval_loss/snr_{name}'], wanted * math.exp(level), rtol=1e-4
    )
  np.testing.assert_allclose(found['eval_x_loss'], wanted, rtol=1e-4)
  mean = wanted * np.mean(np.exp(LEVELS))
  np.testing.assert_allclose(found['eval_loss'], mean, rtol=1e-4)
  assert len(found) == 2 * (1 + len(LEVELS))


@pytest.mark.parametrize(
  'stage', [tiny_stages.BASE, tiny_stages.SR], ids=['base', 'sr']
)
def test_batch_mesh_seed_and_other_levels_change_nothing(stage, measure):
  """Where the noise is what is measured."""
  cfg = config(stage)
  first = measure(cfg, share=0.5)
  assert first == measure(cfg, share=0.5)
  for train, layout in (
    ({'batch_size': 32, 'microbatches': 4}, None),
    ({'seed': 7, 'batch_size': 2}, config_lib.MeshConfig(1, 2, 4)),
  ):
    other = measure(config(stage, **train), share=0.5, layout=layout)
    assert other.keys() == first.keys()
    for name, value in first.items():
      np.testing.assert_allclose(other[name], value, rtol=1e-6)
  fewer = measure(config(stage, eval_logsnr=LEVELS[1:]), share=0.5)
  for name in ('eval_loss/snr_0', 'eval_loss/snr_3', 'eval_x_loss/snr_3'):
    assert fewer[name] == first[name]


def test_examples_and_levels_have_noise_of_their_own(monkeypatch):
  """Without a picture to see, the error is that of the noise."""
  monkeypatch.setattr(state_lib, 'make_network', Network)
  cfg = config(tiny_stages.BASE)
  batch = rows(0, 64, cfg.stage)
  batch = batch.replace(image=np.zeros_like(batch.image))
  params = {'share': jnp.float32(1), 'grey': jnp.float32(0)}
  errors = jax.jit(functools.partial(evaluate.errors, config=cfg))
  first, later, clearer = (
    np.asarray(errors(params, batch, np.int32(number), np.float32(level)))
    for number, level in ((0, 0.0), (2, 0.0), (0, 3.0))
  )
  # Examples 2 to 63, wherever they stand.
  np.testing.assert_allclose(first[2:], later[:-2], rtol=1e-6)
  assert len({*first.tolist(), *later[-2:].tolist()}) == 66
  # z is sigma eps and taken for the picture: the error in eps is alpha eps.
  np.testing.assert_allclose(first.mean(), 0.5, rtol=0.1)
  # Of the same noise errors would be in proportion.
  assert np.corrcoef(first, clearer)[0, 1] < 0.5


def test_the_low_res_input_is_corrupted_as_asked(measure):
  """Of a network that gives it back, the noise in it is the error."""
  found = {
    level: measure(
      config(tiny_stages.SR, eval_aug_level=level), share=1.0, grey=0.0
    )['eval_x_loss']
    for level in (0.0, 0.1, 0.9)
  }
  assert found[0.0] < found[0.1] < found[0.9]


def test_a_network_is_given_no_estimate_of_its_own(measure):
  stage = tiny_stages.with_(
    tiny_stages.BASE, diffusion={'self_condition': True}
  )
  found = measure(config(stage))
  np.testing.assert_allclose(
    found['eval_x_loss'],
    np.mean((rows(0, COUNT, stage).image - 0.25) ** 2),
    rtol=1e-4,
  )


def test_several_weights_are_measured_by_name():
  values = evaluate.means(np.array([[1.0, 3.0], [5.0, 7.0]]), (0, 2), 'a')
  assert values == {
    'a_loss': 4,
    'a_x_loss': pytest.approx((2 + 6 * math.exp(-2)) / 2),
    'a_loss/snr_0': 2,
    'a_loss/snr_2': 6,
    'a_x_loss/snr_0': 2,
    'a_x_loss/snr_2': pytest.approx(6 * math.exp(-2)),
  }


@pytest.mark.parametrize(
  'train, shards, wanted',
  [
    ({}, 8, 8),
    ({'batch_size': 64}, 8, 16),
    ({'batch_size': 64, 'microbatches': 8}, 2, 8),
    ({'batch_size': 64}, 1, 13),
  ],
)
def test_as_many_at_once_as_are_trained_on_and_needed(train, shards, wanted):
  cfg = config(tiny_stages.BASE, **train)
  assert evaluate.batch_size(cfg, shards) == wanted


@pytest.mark.parametrize(
  'diffusion, words',
  [
    (
      {'logsnr_min': -3.5},
      r'train.eval_logsnr is \[-4.0, 0.0, 3.0\]; accepted: .* from -3.5 to 20$',
    ),
    ({'logsnr_max': 2.5}, 'logsnr_max train, from -20 to 2.5$'),
    (
      {'aug_max': 0.1},
      r'train.eval_aug_level is 0.2, which is not trained; .*aug_max \(0.1\)$',
    ),
  ],
)
def test_what_is_not_trained_is_not_measured(diffusion, words):
  stage = tiny_stages.with_(tiny_stages.SR, diffusion=diffusion)
  cfg = config(stage, eval_aug_level=0.2)
  with pytest.raises(ValueError, match=words):
    evaluate.check(cfg)
  base = dataclasses.replace(stage, lowres_size=None)
  if 'aug_max' in diffusion:
    evaluate.check(config(base, eval_aug_level=0.2))
