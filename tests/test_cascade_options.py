"""Every option of a stage reaches what it is of."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_stages import BASE
from tiny_stages import CROPS
from tiny_stages import SR
from tiny_stages import apply
from tiny_stages import keys
from tiny_stages import normal
from tiny_stages import sr_cond
from tiny_stages import text
from tiny_stages import with_

from imagen_jax import cascade
from imagen_jax import structs
from imagen_jax.diffusion import guidance


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


def test_a_weight_of_one_asks_once():
  """Where it is one at every step, and known to be; to the same end."""
  rows = []

  def watch(z, logsnr, cond):
    rows.append((len(z), len(logsnr), *map(len, jax.tree.leaves(cond))))
    return apply(z, logsnr, cond)

  once, twice = (4,) * 6, (8,) * 6
  other = [
    with_(SR, sample=sample)
    for sample in (
      {'guidance': 'interval'},
      {'guidance': 'oscillating', 'oscillate_after': 2},
    )
  ]
  found = []
  for stage, weight, expected in (
    (SR, 1.0, once),
    (SR, 1, once),
    (SR, jnp.ones(4), twice),
    (SR, 2.0, twice),
    *((stage, 1.0, twice) for stage in other),
  ):
    denoise = cascade.make_denoise(watch, sr_cond(), stage, weight)
    found.append(denoise(normal(3, 4, 8, 8, 3), jnp.full(4, -1.0)))
    assert rows.pop() == expected
  np.testing.assert_allclose(found[0], found[2], rtol=1e-5, atol=1e-6)
  assert np.abs(found[0] - found[3]).max() > 0.1


def test_the_threshold_is_behind_the_rescale():
  """What is rescaled may be out of range yet."""
  sample = {'guidance_rescale': 0.7, 'threshold': 'static'}
  free = denoised(with_(SR, sample={**sample, 'threshold': 'none'}))
  assert np.abs(free).max() > 1.1
  found = denoised(with_(SR, sample=sample))
  np.testing.assert_allclose(found, np.clip(free, -1, 1), rtol=1e-5, atol=1e-6)


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
    {'num_steps': 16, 'guidance': 'oscillating'},
    {'num_steps': 16, 'guidance': 'oscillating', 'oscillate_after': 1},
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
