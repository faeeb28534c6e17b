"""The low-res condition, guided sampling, and the order of stages."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_stages import BASE
from tiny_stages import CROPS
from tiny_stages import SAMPLE
from tiny_stages import SR
from tiny_stages import apply
from tiny_stages import keys
from tiny_stages import normal
from tiny_stages import sr_cond
from tiny_stages import text

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import structs
from imagen_jax.diffusion import process


def test_a_base_is_conditioned_on_text_alone():
  cond = cascade.make_cond(text(), None, None, None, BASE)
  assert cond.lowres is None and cond.aug_logsnr is None


def test_make_cond_refuses_a_missing_image():
  words = "stage 'sr' conditions on a 4-pixel image, but was given none"
  with pytest.raises(ValueError, match=words):
    cascade.make_cond(text(), None, None, None, SR)


def test_make_cond_refuses_noise_of_another_size():
  with pytest.raises(AssertionError, match='shape'):
    cascade.make_cond(
      text(), normal(1, 4, 4, 4, 3), normal(2, 4, 4, 4, 3), jnp.zeros(4), SR
    )


def test_drop_text():
  drop = jnp.array([False, True, False, True])
  kept = text()
  found = cascade.drop_text(kept, drop)
  np.testing.assert_array_equal(found.embed[::2], kept.embed[::2])
  np.testing.assert_array_equal(found.mask[::2], kept.mask[::2])
  assert not found.embed[1::2].any() and not found.mask[1::2].any()
  assert found.embed.dtype == kept.embed.dtype


def unguided(cond, z, logsnr, prediction):
  """x_hat with and without text, by a call of the network each."""
  nothing = structs.TextCond(
    jnp.zeros_like(cond.text.embed), jnp.zeros_like(cond.text.mask)
  )
  outs = (
    apply(z, logsnr, cond),
    apply(z, logsnr, cond.replace(text=nothing)),
  )
  return [process.to_x(prediction, out, z, logsnr) for out in outs]


@pytest.mark.parametrize('prediction', ['eps', 'x', 'v'])
def test_guidance_is_two_calls_in_one(prediction):
  """Also with a weight an image: 0, 1 and more."""
  diffusion = config.DiffusionConfig(prediction=prediction, loss=prediction)
  stage = dataclasses.replace(SR, diffusion=diffusion)
  cond = sr_cond()
  z, logsnr = normal(3, 4, 8, 8, 3), jnp.array([-1.0, 0.0, 2.0, 3.0])
  with_text, without = unguided(cond, z, logsnr, prediction)
  for weight in (np.array([0.0, 1.0, 1.35, 8.0]), 3.0):
    found = cascade.make_denoise(apply, cond, stage, weight)(z, logsnr)
    weight = np.broadcast_to(weight, (4,))[:, None, None, None]
    expected = without + weight * (with_text - without)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_guidance_is_thresholded():
  cond, z = sr_cond(), normal(3, 4, 8, 8, 3)
  logsnr = jnp.full(4, -3.0)
  for kind in ('static', 'dynamic'):
    sample = dataclasses.replace(SAMPLE, threshold=kind)
    stage = dataclasses.replace(SR, sample=sample)
    denoise = cascade.make_denoise(apply, cond, stage, 5.0)
    assert np.abs(denoise(z, logsnr)).max() <= 1
  denoise = cascade.make_denoise(apply, cond, SR, 5.0)
  assert np.abs(denoise(z, logsnr)).max() > 2


def test_guidance_keeps_images_on_their_devices():
  """On a mesh the two of an image need no exchange between devices."""
  mesh = jax.make_mesh((4,), ('data',), devices=jax.devices()[:4])
  rows = jax.sharding.NamedSharding(mesh, jax.P('data'))

  @functools.partial(jax.jit, in_shardings=rows, out_shardings=rows)
  def run(cond, z, logsnr):
    return cascade.make_denoise(apply, cond, SR, 3.0)(z, logsnr)

  arguments = sr_cond(), normal(3, 4, 8, 8, 3), jnp.zeros(4)
  program = run.lower(*arguments).compile().as_text()
  for exchange in ('all-gather', 'all-to-all', 'collective', 'all-reduce'):
    assert f' {exchange}' not in program


@functools.cache
def sampling(stage, with_weights=False):
  """Samples of a stage, jitted: (keys, text, lowres) -> images."""
  draw = functools.partial(cascade.sample_stage, apply, stage=stage)
  if with_weights:
    return jax.jit(lambda *args: draw(*args[:3], guidance_weight=args[3]))
  return jax.jit(draw)


@pytest.mark.parametrize('stage', [BASE, SR], ids=['base', 'sr'])
def test_an_image_does_not_depend_on_the_others(stage):
  lowres = None if stage is BASE else normal(1, 4, 4, 4, 3)
  together = sampling(stage)(keys(0, 1, 2, 3), text(), lowres)
  assert together.shape == (4, stage.image_size, stage.image_size, 3)
  assert np.abs(together).max() <= 1

  turn = lambda x: jnp.roll(x, 1, axis=0)
  moved = jax.tree.map(turn, (text(), lowres))
  other = sampling(stage)(keys(9, 0, 1, 2), *moved)
  np.testing.assert_allclose(other[1:], together[:3], rtol=1e-5, atol=1e-5)
  assert np.abs(other[0] - together[3]).max() > 1e-2


def test_a_guidance_weight_for_each_image():
  weights = jnp.array([1.0, 3.0, 0.0, 3.0])
  own = sampling(BASE)(keys(0, 1, 2, 3), text(), None)
  each = sampling(BASE, True)(keys(0, 1, 2, 3), text(), None, weights)
  np.testing.assert_allclose(each[1::2], own[1::2], rtol=1e-4, atol=1e-5)
  assert np.abs(each - own)[::2].max((1, 2, 3)).min() > 1e-3


def test_lowres_is_corrupted_once_at_the_stages_level():
  """The condition is the same at every step; its noise is not z's."""
  seen = []

  def watch(z, logsnr, cond):
    note = lambda *arrays: seen.append([np.asarray(a) for a in arrays])
    jax.debug.callback(note, z, cond.lowres, cond.aug_logsnr, ordered=True)
    return apply(z, logsnr, cond)

  sample = dataclasses.replace(SAMPLE, aug_level=1.0)
  stage = dataclasses.replace(SR, sample=sample)
  draw = functools.partial(cascade.sample_stage, watch, stage=stage)
  jax.jit(draw)(keys(0, 1, 2, 3), text(), jnp.zeros((4, 4, 4, 3)))
  jax.effects_barrier()
  assert len(seen) == 3
  for _, lowres, aug_logsnr in seen:
    np.testing.assert_array_equal(lowres, seen[0][1])
    np.testing.assert_allclose(aug_logsnr, np.full(8, -20.0), atol=1e-3)
  z, lowres, _ = (a.reshape(8, -1) for a in seen[0])
  # With and without text are given the same noise.
  np.testing.assert_array_equal(z[::2], z[1::2])
  assert 0.8 < lowres.std() < 1.2
  assert abs(np.corrcoef(z.ravel(), lowres.ravel())[0, 1]) < 0.15


def test_check_stages_takes_a_cascade():
  last = dataclasses.replace(SR, name='last', image_size=16, lowres_size=8)
  cascade.check_stages([BASE])
  cascade.check_stages([BASE, SR, last])
  cascade.check_stages([BASE, SR, CROPS])


@pytest.mark.parametrize(
  'stages, words',
  [
    ([SR], "stage 'sr' takes 4 where the stage before it makes none"),
    ([SR, BASE], "stage 'sr' takes 4 where the stage before it makes none"),
    ([BASE, BASE], "stage 'base' takes no image where .* makes 4; accepted"),
    ([BASE, SR, SR], "stage 'sr' takes 4 where the stage before it makes 8"),
    ([BASE, CROPS], "stage 'crops' takes 8 where the stage before it makes 4"),
    (
      [BASE, SR, CROPS, CROPS],
      "stage 'crops' takes 8 where the stage before it makes 16",
    ),
  ],
)
def test_check_stages_refuses(stages, words):
  with pytest.raises(ValueError, match=words):
    cascade.check_stages(stages)


def test_what_is_made_is_as_large_as_the_lowres_image_asks_for():
  """A whole picture, or a crop: the same as by a stage of that size."""
  for size in (4, 8):
    plain = dataclasses.replace(SR, image_size=2 * size, lowres_size=size)
    lowres = normal(1, 4, size, size, 3)
    found = sampling(CROPS)(keys(0, 1, 2, 3), text(), lowres)
    assert found.shape == (4, 2 * size, 2 * size, 3)
    expected = sampling(plain)(keys(0, 1, 2, 3), text(), lowres)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('shape', [(16, 16), (8, 4), (5, 5)])
def test_other_lowres_images_are_refused(shape):
  words = (
    f"stage 'crops' was given low-res images of {shape[0]}x{shape[1]} pixels; "
    'accepted: squares of 8 or 4$'
  )
  with pytest.raises(ValueError, match=words):
    cascade.sample_stage(
      apply, keys(0, 1, 2, 3), text(), normal(1, 4, *shape, 3), CROPS
    )


def test_the_condition_of_a_crop_is_of_the_crops_size():
  for size in (4, 8):
    cond = cascade.make_cond(
      text(),
      normal(1, 4, size, size, 3),
      normal(2, 4, 2 * size, 2 * size, 3),
      jnp.zeros(4),
      CROPS,
    )
    assert cond.lowres.shape == (4, 2 * size, 2 * size, 3)
