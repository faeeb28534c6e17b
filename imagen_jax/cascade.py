"""The cascade: what a stage is conditioned on, and its samples for the next."""

import math

import chex
import jax
import jax.numpy as jnp

from imagen_jax import config
from imagen_jax import structs
from imagen_jax.diffusion import augmentation
from imagen_jax.diffusion import guidance
from imagen_jax.diffusion import process
from imagen_jax.diffusion import sampler
from imagen_jax.diffusion import schedule
from imagen_jax.diffusion import spacing


def stage_schedule(stage: config.StageConfig):
  """The stage's t -> log-SNR.

  A shifted schedule goes by the size of whole pictures: how much of a pixel
  its neighbours tell is a matter of how fine the picture is drawn, which a
  crop of it shares. So a stage is sampled by the schedule it was trained by.
  """
  diffusion = stage.diffusion
  options = {
    'logsnr_min': diffusion.logsnr_min,
    'logsnr_max': diffusion.logsnr_max,
  }
  if diffusion.schedule == 'shifted_cosine':
    function = schedule.shifted_cosine
    options['shift'] = 2 * math.log(diffusion.shift_size / stage.output_size)
  elif diffusion.schedule == 'edm':
    function = schedule.edm
    options['mean'], options['std'] = diffusion.edm_mean, diffusion.edm_std
  elif diffusion.cosine_offset:
    function = schedule.offset_cosine
    options['offset'] = diffusion.cosine_offset
  else:
    function = schedule.SCHEDULES[diffusion.schedule]
  found = lambda t: function(t, **options)
  if diffusion.zero_terminal_snr:
    return schedule.zero_terminal_snr(found)
  return found


def make_cond(text, lowres, eps, aug_level, stage: config.StageConfig):
  """What the stage's network is conditioned on.

  Args:
    text: `structs.TextCond`.
    lowres: [B, h, w, 3], of a crop or of whole pictures; None for a base
      stage.
    eps: [B, H, W, 3], noise of the low-res image, or of
      `augmentation.noise_size` pixels a side; None for a base stage.
    aug_level: [B]; None for a base stage.
    stage: the stage.

  Raises:
    ValueError: where a super-resolution stage is given no low-res image.
  """
  if stage.lowres_size is None:
    return structs.Cond(text)
  if lowres is None:
    raise ValueError(
      f'stage {stage.name!r} conditions on a {stage.lowres_size}-pixel '
      'image, but was given none; a stage before it must make one'
    )
  lowres, logsnr = augmentation.corrupt_lowres(
    lowres,
    eps,
    aug_level,
    image_size=lowres.shape[1] * stage.image_size // stage.lowres_size,
    diffusion=stage.diffusion,
  )
  return structs.Cond(text, lowres=lowres, aug_logsnr=logsnr)


def make_denoise(
  apply, cond, stage: config.StageConfig, guidance_weight, lowres_at=None
):
  """The stage as `denoise(z, logsnr, step, x_last, call) -> x_hat`.

  The estimate is guided and thresholded. `step`, `x_last` and `call` are the
  sampler's (`sampler.sample`); only oscillating guidance, self-conditioning
  and `lowres_at` ask for them.

  With and without text go through the network as one batch, the two of an
  image side by side, so that on a mesh each stays with its image. "Without"
  is zeroed embeddings under an empty mask, as in training (paper, section
  4.1). It is left out where the weight is the number 1 at every step: that is
  no guidance. (Of an array it is not known before it is computed with.)

  Args:
    apply: (z, logsnr, cond) -> network output.
    cond: `structs.Cond` of the batch.
    stage: gives prediction, guidance and threshold.
    guidance_weight: scalar or [B].
    lowres_at: call -> low-res image, corrupted anew, in the place of `cond`'s;
      None keeps that.
  """
  diffusion, sample = stage.diffusion, stage.sample
  plain = (
    sample.guidance == 'constant'
    and isinstance(guidance_weight, (int, float))
    and guidance_weight == 1
  )
  twice = lambda x: x if plain else jnp.repeat(x, 2, axis=0)
  both = jax.tree.map(twice, cond)
  if not plain:
    without = jnp.arange(both.text.mask.shape[0]) % 2 == 1
    both = both.replace(text=drop_text(both.text, without))

  def guided(out, to_x, logsnr, step):
    out = out.reshape(-1, 2, *out.shape[1:])
    weight = guidance.weight_at(
      guidance_weight,
      logsnr,
      step,
      kind=sample.guidance,
      interval=sample.guidance_interval,
      after=sample.oscillate_after,
      low=sample.oscillate_weight,
    )
    x_hat = to_x(guidance.guide(out[:, 0], out[:, 1], weight))
    if sample.guidance_rescale > 0:
      x_hat = guidance.rescale(x_hat, to_x(out[:, 0]), sample.guidance_rescale)
    return x_hat

  def denoise(z, logsnr, step=0, x_last=None, call=0):
    given = both
    if lowres_at is not None:
      given = both.replace(lowres=twice(lowres_at(call)))
    if diffusion.self_condition:
      x_last = jnp.zeros_like(z) if x_last is None else jnp.clip(x_last, -1, 1)
      given = given.replace(x_last=twice(x_last))
    scaled = process.scale_input(
      diffusion.prediction, z, logsnr, diffusion.sigma_data
    )
    out = apply(twice(scaled), twice(logsnr), given)
    to_x = lambda out: process.to_x(
      diffusion.prediction, out, z, logsnr, diffusion.sigma_data
    )
    x_hat = to_x(out) if plain else guided(out, to_x, logsnr, step)
    return guidance.threshold(
      x_hat,
      kind=sample.threshold,
      percentile=sample.percentile,
      cap=sample.threshold_cap,
    )

  return denoise


def stage_steps(stage: config.StageConfig):
  """Log-SNR of the stage's sampling steps, [num_steps + 1]."""
  sample = stage.sample
  return spacing.logsnr_steps(
    sample.num_steps,
    spacing=sample.spacing,
    schedule=stage_schedule(stage),
    sigma_min=sample.sigma_min,
    sigma_max=sample.sigma_max,
    rho=sample.rho,
  )


def drop_text(text, drop):
  """`text` with embedding and mask zeroed where `drop` [B] is True."""
  keep = ~drop
  return structs.TextCond(
    embed=text.embed * keep[:, None, None].astype(text.embed.dtype),
    mask=text.mask & keep[:, None],
  )


def sample_stage(
  apply,
  keys,
  text,
  lowres,
  stage: config.StageConfig,
  guidance_weight=None,
  edit=None,
):
  """Images of one stage, [B, H, W, 3] in [-1, 1].

  A super-resolution stage makes them as large as `lowres` asks for: whole
  pictures in a cascade, crops where it is given the low-res input of crops.
  The network is convolutional and takes both, though its norms are of all
  pixels that it sees, which are more in a whole picture.

  Args:
    apply: (z, logsnr, cond) -> network output.
    keys: a PRNG key an image, [B].
    text: `structs.TextCond` of B captions.
    lowres: the stage before's images [B, h, w, 3], of `stage.input_size`, or
      crops of `stage.lowres_size`; None for a base stage.
    stage: its `sample` gives steps, sampler, threshold and aug_level.
    guidance_weight: scalar or [B]; the stage's own where None.
    edit: `structs.Edit` of pictures of the stage's size to start from; None
      to start from noise.

  Raises:
    ValueError: where `lowres` is of neither size.
  """
  if guidance_weight is None:
    guidance_weight = stage.sample.guidance_weight
  size = _size_for(lowres, stage)
  shape = (size, size, 3)
  purposes = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
  sample, edits = stage.sample, {}
  aug_keys, lowres_at = purposes[:, 1], None
  cond_at = lambda keys: make_cond(
    text, lowres, *_sampling_noise(keys, size, stage), stage
  )
  if stage.lowres_size is not None and sample.aug_draw == 'every':
    at_call = lambda call: cond_at(
      jax.vmap(jax.random.fold_in, (0, None))(aug_keys, call)
    )
    cond, lowres_at = at_call(0), lambda call: at_call(call).lowres
  else:
    cond = cond_at(aug_keys)
  if edit is not None:
    chex.assert_shape(edit.image, (*keys.shape, *shape))
    edits = {
      'image': edit.image,
      'mask': edit.mask,
      'strength': sample.strength,
      'repeats': sample.resample,
      'jump': sample.resample_jump,
    }
  x = sampler.sample(
    make_denoise(apply, cond, stage, guidance_weight, lowres_at),
    purposes[:, 0],
    shape,
    logsnr=stage_steps(stage),
    sampler=sample.sampler,
    gamma=sample.gamma,
    churn=sampler.Churn(
      amount=sample.churn,
      sigma_min=sample.churn_min,
      sigma_max=sample.churn_max,
      noise=sample.churn_noise,
    ),
    **edits,
  )
  return jnp.clip(x, -1, 1)


def _sampling_noise(keys, size, stage):
  """Noise of the low-res input and its aug_level, of a key an image."""
  if stage.lowres_size is None:
    return None, None
  pixels = augmentation.noise_size(size, stage)
  draw = lambda key: jax.random.normal(key, (pixels, pixels, 3))
  return jax.vmap(draw)(keys), jnp.full(keys.shape, stage.sample.aug_level)


def _size_for(lowres, stage):
  """Pixels on a side of what the stage makes of `lowres`."""
  if stage.lowres_size is None or lowres is None:
    return stage.output_size
  accepted = {
    stage.input_size: stage.output_size,
    stage.lowres_size: stage.image_size,
  }
  height, width = lowres.shape[1:3]
  if height != width or height not in accepted:
    raise ValueError(
      f'stage {stage.name!r} was given low-res images of {height}x{width} '
      f'pixels; accepted: squares of {" or ".join(map(str, accepted))}'
    )
  return accepted[height]


def check_stages(stages):
  """Raises ValueError unless each stage takes the size the last one makes."""
  size = None
  for stage in stages:
    if stage.input_size != size:
      wants = stage.input_size or 'no image'
      raise ValueError(
        f'--weights: stage {stage.name!r} takes {wants} where the stage '
        f'before it makes {size or "none"}; accepted: a base stage, then '
        'super-resolution stages in the order of their sizes'
      )
    size = stage.output_size
