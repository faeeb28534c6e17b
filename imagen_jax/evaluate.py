"""The loss on held-out examples at fixed levels of noise.

Two runs can be compared by it: examples, their noise, its levels and the space
of the error are the same whatever a run predicts, weighs, draws or is run on.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import cascade
from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.diffusion import augmentation
from imagen_jax.diffusion import loss
from imagen_jax.diffusion import process
from imagen_jax.train import state as state_lib

# Of the noise, for all runs: `train.seed` is a run's own.
_SEED = 0


def check(config: config_lib.Config):
  """Raises ValueError where noise levels are asked for that are not trained."""
  diffusion, train = config.stage.diffusion, config.train
  low, high = diffusion.logsnr_min, diffusion.logsnr_max
  levels = train.eval_logsnr
  if not low <= levels[0] <= levels[-1] <= high:
    raise ValueError(
      f'train.eval_logsnr is {list(levels)}; accepted: what '
      'stage.diffusion.logsnr_min and logsnr_max train, from '
      f'{low:g} to {high:g}'
    )
  if config.stage.lowres_size and train.eval_aug_level > diffusion.aug_max:
    raise ValueError(
      f'train.eval_aug_level is {train.eval_aug_level}, which is not trained; '
      f'accepted: up to stage.diffusion.aug_max ({diffusion.aug_max})'
    )


def batch_size(config: config_lib.Config, shards: int) -> int:
  """Examples that are evaluated at once: as many as are trained on at once.

  Args:
    config: the run.
    shards: parts in which its mesh splits a batch.
  """
  train = config.train
  at_once = train.batch_size // train.microbatches
  return min(
    max(at_once // shards, 1) * shards,
    -(-train.num_eval_examples // shards) * shards,
  )


def errors(params, batch, first, logsnr, config: config_lib.Config):
  """The squared error in eps of each example, at one noise level, [B].

  The text is never dropped, the low-res input corrupted at
  `train.eval_aug_level`, and a network that is given its last estimate is given
  none.

  Args:
    params: of the stage's network.
    batch: `structs.Batch`.
    first: the number of its first example, of which its noise is a function.
    logsnr: scalar.
    config: the run.
  """
  stage, diffusion, x = config.stage, config.stage.diffusion, batch.image
  numbers = first + jnp.arange(len(x))
  # By example and level: another batch, or one level more, changes no noise.
  key = jax.random.fold_in(
    jax.random.key(_SEED), jax.lax.bitcast_convert_type(logsnr, jnp.uint32)
  )
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
  purposes = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
  normal = lambda keys, size: jax.vmap(
    lambda key: jax.random.normal(key, (size, size, 3))
  )(keys)
  eps = normal(purposes[:, 0], stage.image_size)
  levels = jnp.full(len(x), logsnr)
  z = process.diffuse(x, eps, levels)
  aug_eps = aug_level = None
  if stage.lowres_size is not None:
    aug_eps = normal(
      purposes[:, 1], augmentation.noise_size(stage.image_size, stage)
    )
    aug_level = jnp.full(len(x), config.train.eval_aug_level)
  cond = cascade.make_cond(batch.text, batch.lowres, aug_eps, aug_level, stage)
  if diffusion.self_condition:
    cond = cond.replace(x_last=jnp.zeros_like(z))
  out = state_lib.bind(stage, params)(
    process.scale_input(diffusion.prediction, z, levels, diffusion.sigma_data),
    levels,
    cond,
  )
  return loss.denoising_loss(
    out,
    x,
    eps,
    levels,
    prediction=diffusion.prediction,
    loss='eps',
    sigma_data=diffusion.sigma_data,
  )


def means(found: np.ndarray, logsnr, prefix='eval') -> dict[str, float]:
  """Metrics of squared errors in eps, [levels, N].

  `eval_loss` is their mean over examples and levels, `eval_x_loss` that of the
  errors in x, and `eval_loss/snr_m3` that of the level -3. An error in x is one
  in eps times e^-logsnr.

  Args:
    found: from `errors`, of all examples.
    logsnr: the levels.
    prefix: of the names.
  """
  eps = found.astype(np.float64).mean(axis=1)
  x = eps * np.exp(-np.array(logsnr, np.float64))
  values = {f'{prefix}_loss': eps.mean(), f'{prefix}_x_loss': x.mean()}
  for space, each in ((f'{prefix}_loss', eps), (f'{prefix}_x_loss', x)):
    for level, value in zip(logsnr, each):
      name = f'{level:g}'.replace('-', 'm')
      values[f'{space}/snr_{name}'] = value
  return {name: float(value) for name, value in values.items()}


class Evaluator:
  """Measures weights on the same held-out examples, as a run goes on.

  Each host has a share of the examples, and none has all.

  Args:
    config: the run.
    mesh: the run's.
    batches: () -> this host's batches of `batch_size` examples, from the first
      one on, as `structs.Batch` of NumPy arrays; `close` is called on what it
      returns.

  Raises:
    ValueError: where levels are asked for that are not trained.
  """

  def __init__(self, config: config_lib.Config, mesh, batches):
    check(config)
    self._config, self._mesh, self._batches = config, mesh, batches
    self._size = batch_size(
      config, sharding.num_batch_shards(mesh, config.mesh)
    )
    # Whole on each host, numbers as they are: sums are then the hosts' own, in
    # the order of the examples, whatever the mesh and the batch.
    self._errors = jax.jit(
      functools.partial(errors, config=config),
      out_shardings=sharding.replicated(mesh),
    )

  def measure(self, weights: dict[str, dict]) -> dict[str, float]:
    """Metrics of several weights; on every host, within the mesh.

    Args:
      weights: {prefix of the metrics' names: parameters}.
    """
    train = self._config.train
    count = train.num_eval_examples
    found = {name: [] for name in weights}
    batches = self._batches()
    try:
      for first in range(0, count, self._size):
        rows = next(batches)
        batch = sharding.put_batch(rows, self._mesh, self._config.mesh)
        number = np.int32(first)
        for name, params in weights.items():
          # One at a time: many at once would only hold memory.
          levels = [
            jax.block_until_ready(
              self._errors(params, batch, number, np.float32(level))
            )
            for level in train.eval_logsnr
          ]
          found[name].append(levels)
    finally:
      batches.close()
    values = {}
    for name, parts in jax.device_get(found).items():
      # The last batch may have more examples than were asked for.
      every = np.concatenate([np.stack(part) for part in parts], axis=1)
      values |= means(every[:, :count], train.eval_logsnr, name)
    return values
