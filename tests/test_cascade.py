"""The low-res condition, guided sampling, and the order of stages."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import structs
from imagen_jax.diffusion import guidance
from imagen_jax.diffusion import process

UNET = config.UNetConfig(
  design='efficient',
  channels=(8,),
  num_res_blocks=(1,),
  self_attention=(False,),
  text_attention=(False,),
  head_dim=4,
  embed_dim=8,
  num_groups=4,
)
SAMPLE = config.SampleConfig(num_steps=3, guidance_weight=3.0, threshold='none')
BASE = config.StageConfig(name='base', image_size=4, unet=UNET, sample=SAMPLE)
SR = config.StageConfig(
  name='sr', image_size=8, lowres_size=4, unet=UNET, sample=SAMPLE
)
# Trained on crops of 16-pixel pictures, which it makes of 8-pixel ones.
CROPS = dataclasses.replace(SR, name='crops', whole_size=16)
MASK = jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def text():
  return structs.TextCond(normal(0, 4, 3, 5) * MASK[..., None], MASK)


def apply(z, logsnr, cond):
  """A network without parameters, to which each of its inputs counts."""
  shift = cond.text.embed.mean((1, 2)) + 0.3 * cond.text.mask.sum(1)
  out = jnp.tanh(z + process.broadcast(shift + 0.1 * logsnr, z))
  if cond.lowres is not None:
    out = out + 0.5 * cond.lowres
    out = out + process.broadcast(0.01 * cond.aug_logsnr, z)
  return out


def sr_cond(aug_level=0.3, **changes):
  """The condition of a super-resolution stage for four images."""
  levels = jnp.full(4, aug_level)
  cond = cascade.make_cond(
    text(), normal(1, 4, 4, 4, 3), normal(2, 4, 8, 8, 3), levels, SR
  )
  return cond.replace(**changes)


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


def keys(*numbers):
  fold = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(4), n))
  return fold(jnp.array(numbers))


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


def with_(stage, *, diffusion=None, sample=None):
  """`stage` with fields of two of its groups replaced."""
  return dataclasses.replace(
    stage,
    diffusion=dataclasses.replace(stage.diffusion, **(diffusion or {})),
    sample=dataclasses.replace(stage.sample, **(sample or {})),
  )


@pytest.mark.parametrize('size, shift', [(4, 2.7726), (8, 1.3863), (16, 0.0)])
def test_the_shift_is_the_stages_size(size, shift):
  shifted = {'schedule': 'shifted_cosine', 'shift_size': 16}
  stage = with_(dataclasses.replace(BASE, image_size=size), diffusion=shifted)
  found = cascade.stage_schedule(stage)(jnp.array([0.25, 0.5]))
  np.testing.assert_allclose(found, [1.7627 + shift, shift], atol=1e-3)


def test_the_shift_is_that_of_whole_pictures():
  """Of a crop's pixels, neighbours tell as much as in the whole."""
  shifted = {'schedule': 'shifted_cosine', 'shift_size': 16}
  t = jnp.array([0.25, 0.5])
  crops, whole, small = (
    cascade.stage_schedule(with_(stage, diffusion=shifted))(t)
    for stage in (CROPS, dataclasses.replace(BASE, image_size=16), SR)
  )
  np.testing.assert_array_equal(crops, whole)
  assert (crops < small).all()


@pytest.mark.parametrize(
  'name', ['cosine', 'linear', 'shifted_cosine', 'edm', 'offset']
)
def test_schedules_end_at_their_bounds(name):
  changes = {'logsnr_min': -3.0, 'logsnr_max': 4.0}
  changes |= (
    {'cosine_offset': 0.008} if name == 'offset' else {'schedule': name}
  )
  found = cascade.stage_schedule(with_(BASE, diffusion=changes))
  ends = found(jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(ends, [4, -3], atol=2e-3)


def test_schedules_take_their_numbers():
  t = jnp.array([0.5, 1.0])
  found = cascade.stage_schedule(
    with_(BASE, diffusion={'cosine_offset': 0.008})
  )
  np.testing.assert_allclose(found(t), [-0.0246, -20], atol=1e-3)
  edm = {'schedule': 'edm', 'edm_mean': -0.4, 'edm_std': 1.0}
  found = cascade.stage_schedule(with_(BASE, diffusion=edm))(t)
  np.testing.assert_allclose(found, [0.8, -20], atol=1e-3)
  stretched = {
    'schedule': 'linear',
    'zero_terminal_snr': True,
    'prediction': 'v',
  }
  found = cascade.stage_schedule(with_(BASE, diffusion=stretched))(t)
  assert found[0] < -2.46 and found[1] < -30


def test_steps_take_their_numbers():
  sample = {
    'spacing': 'karras',
    'num_steps': 4,
    'sigma_min': 0.1,
    'sigma_max': 10.0,
    'rho': 1.0,
  }
  found = cascade.stage_steps(with_(BASE, sample=sample))
  sigma = np.exp(-0.5 * np.asarray(found, float))
  np.testing.assert_allclose(sigma, [10, 6.7, 3.4, 0.1, 0.1], rtol=1e-4)


def denoised(stage, weight=5.0, logsnr=None, **given):
  z = normal(3, 4, 8, 8, 3)
  logsnr = jnp.full(4, -1.0) if logsnr is None else logsnr
  return cascade.make_denoise(apply, sr_cond(), stage, weight)(
    z, logsnr, **given
  )


def test_guidance_in_an_interval():
  logsnr = jnp.array([-5.0, -1.0, 0.0, 4.0])
  stage = with_(
    SR, sample={'guidance': 'interval', 'guidance_interval': (-2.0, 3.0)}
  )
  found = denoised(stage, logsnr=logsnr)
  guided, plain = (denoised(SR, w, logsnr) for w in (5.0, 1.0))
  np.testing.assert_allclose(found[1:3], guided[1:3], rtol=1e-5)
  np.testing.assert_allclose(found[::3], plain[::3], rtol=1e-5)
  assert np.abs(guided - plain).max((1, 2, 3)).min() > 0.1


def test_guidance_oscillates():
  stage = with_(
    SR,
    sample={
      'guidance': 'oscillating',
      'oscillate_after': 1,
      'oscillate_weight': 2.0,
    },
  )
  for step, weight in enumerate([5.0, 2.0, 5.0, 2.0]):
    np.testing.assert_allclose(
      denoised(stage, step=step), denoised(SR, weight), rtol=1e-5
    )


def test_guidance_is_rescaled():
  guided, plain = denoised(SR), denoised(SR, 1.0)
  found = denoised(with_(SR, sample={'guidance_rescale': 0.7}))
  ratio = (plain.std((1, 2, 3)) / guided.std((1, 2, 3)))[:, None, None, None]
  np.testing.assert_allclose(
    found, guided * (0.7 * ratio + 0.3), rtol=1e-4, atol=1e-5
  )
  assert np.abs(found - guided).max() > 0.1


def test_the_threshold_is_of_the_percentile():
  for percentile in (0.5, 0.9):
    sample = {'threshold': 'dynamic', 'percentile': percentile}
    expected = guidance.dynamic_threshold(denoised(SR), percentile=percentile)
    found = denoised(with_(SR, sample=sample))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_threshold_is_capped():
  sample = {'threshold': 'dynamic', 'percentile': 0.9}
  free = denoised(with_(SR, sample=sample))
  capped = denoised(with_(SR, sample={**sample, 'threshold_cap': 1.0}))
  np.testing.assert_allclose(capped, np.clip(denoised(SR), -1, 1), rtol=1e-5)
  assert np.abs(free - capped).max() > 0.1


def test_edm_scales_what_the_network_sees():
  stage = with_(SR, diffusion={'prediction': 'edm', 'sigma_data': 0.3})
  logsnr, z = jnp.array([-4.0, -1.0, 1.0, 4.0]), normal(3, 4, 8, 8, 3)
  found = denoised(stage, 1.0, logsnr)
  s = np.exp(-0.5 * np.asarray(logsnr, float))[:, None, None, None]
  y = z * np.hypot(1, s)
  wide = s**2 + 0.3**2
  out = apply(jnp.asarray(y / np.sqrt(wide), jnp.float32), logsnr, sr_cond())
  expected = 0.3**2 / wide * y + 0.3 * s / np.sqrt(wide) * out
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_both_halves_see_the_last_estimate():
  seen = []

  def watch(z, logsnr, cond):
    seen.append(cond.x_last)
    return apply(z, logsnr, cond)

  stage = with_(SR, diffusion={'self_condition': True})
  denoise = cascade.make_denoise(watch, sr_cond(), stage, 3.0)
  z, last = normal(3, 4, 8, 8, 3), 3 * normal(5, 4, 8, 8, 3)
  denoise(z, jnp.zeros(4), 1, last)
  denoise(z, jnp.zeros(4))
  for half in (0, 1):
    np.testing.assert_array_equal(seen[0][half::2], np.clip(last, -1, 1))
  assert not seen[1].any()
  # Others are not given any.
  cascade.make_denoise(watch, sr_cond(), SR, 3.0)(z, jnp.zeros(4), 1, last)
  assert seen[2] is None


def test_the_last_estimate_is_the_samplers():
  """Zero at the first call, and then what was made of the one before."""
  seen = []

  def watch(z, logsnr, cond):
    out = apply(z, logsnr, cond)
    note = lambda *arrays: seen.append([np.asarray(a) for a in arrays])
    jax.debug.callback(note, cond.x_last, out, ordered=True)
    return out

  stage = with_(
    BASE,
    diffusion={'self_condition': True, 'prediction': 'x', 'loss': 'x'},
    sample={'threshold': 'static'},
  )
  draw = functools.partial(cascade.sample_stage, watch, stage=stage)
  x = jax.jit(draw)(keys(0, 1, 2, 3), text(), None)
  jax.effects_barrier()
  assert len(seen) == 3 and not seen[0][0].any()
  estimates = [np.clip(3 * out[::2] - 2 * out[1::2], -1, 1) for _, out in seen]
  for before, (given, _) in zip(estimates, seen[1:]):
    np.testing.assert_allclose(given[::2], before, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(x, estimates[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'change',
  [
    {'sampler': 'dpmpp'},
    {'sampler': 'dpmpp_sde'},
    {'spacing': 'karras', 'sampler': 'heun'},
    {'sampler': 'heun', 'spacing': 'karras', 'churn': 5.0},
    {
      'sampler': 'heun',
      'spacing': 'karras',
      'churn': 5.0,
      'churn_noise': 1.3,
    },
    {
      'sampler': 'heun',
      'spacing': 'karras',
      'churn': 5.0,
      'churn_min': 1.0,
    },
    {
      'sampler': 'heun',
      'spacing': 'karras',
      'churn': 5.0,
      'churn_max': 5.0,
    },
    {'spacing': 'logsnr'},
    {'spacing': 'karras'},
    {'spacing': 'karras', 'rho': 3.0},
    {'spacing': 'karras', 'sigma_min': 0.3},
    {'spacing': 'karras', 'sigma_max': 5.0},
    {'guidance': 'interval'},
    {'oscillate_after': 1, 'guidance': 'oscillating'},
    {'guidance_rescale': 0.7},
    {'gamma': 0.5},
  ],
  ids=str,
)
def test_each_setting_changes_the_sample(change):
  """None does nothing; what each does is tested by its own module."""
  found = _draw_calmly(**change)
  assert np.all(np.isfinite(found))
  # Beside the change alone that it is a part of, or beside none.
  name, *before = reversed(change)
  without = {each: change[each] for each in before}
  assert np.abs(found - _without(**without)).max() > 1e-4, name


@functools.cache
def _without(**sample):
  return _draw_calmly(**sample)


def calm(z, logsnr, cond):
  """Predicts pictures that are within [-1, 1], guided or not."""
  return 0.3 * apply(z, logsnr, cond)


def _draw_calmly(edit=None, **sample):
  sample = {'num_steps': 8, **sample}
  stage = with_(BASE, diffusion={'prediction': 'x', 'loss': 'x'}, sample=sample)
  run = functools.partial(cascade.sample_stage, calm, stage=stage)
  draw = jax.jit(lambda edit: run(keys(0, 1, 2, 3), text(), None, edit=edit))
  return np.asarray(draw(edit))


def test_edits_reach_the_sampler():
  """Strength, mask and repeats of a stage."""
  image = jnp.clip(normal(7, 4, 4, 4, 3), -1, 1)
  mask = jnp.zeros((4, 4, 4, 1)).at[:, 2:].set(1.0)

  draw = _draw_calmly
  whole = structs.Edit(image)
  from_noise = draw(None)
  np.testing.assert_allclose(draw(whole), from_noise, atol=1e-5)
  near = np.abs(draw(whole, strength=0.25) - from_noise)
  assert near.max() > 0.1
  part = structs.Edit(image, mask)
  once, often = draw(part), draw(part, resample=4)
  jumps = draw(part, resample=4, resample_jump=3)
  for found in (once, often, jumps):
    np.testing.assert_array_equal(found[:, :2], image[:, :2])
  for one, other in ((once, often), (often, jumps)):
    assert np.abs(one - other)[:, 2:].max() > 1e-3


def test_a_picture_of_another_size_is_a_mistake():
  edit = structs.Edit(jnp.zeros((4, 8, 8, 3)))
  with pytest.raises(AssertionError, match='shape'):
    cascade.sample_stage(apply, keys(0, 1, 2, 3), text(), None, BASE, edit=edit)
