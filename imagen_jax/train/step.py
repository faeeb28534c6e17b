"""One training step: a pure function of (state, batch, config)."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.diffusion import augmentation
from imagen_jax.diffusion import loss
from imagen_jax.diffusion import process
from imagen_jax.train import alike
from imagen_jax.train import guard
from imagen_jax.train import norms
from imagen_jax.train import optimizer
from imagen_jax.train import power_ema
from imagen_jax.train import state as state_lib

# Buckets of time, over which the loss is also reported.
NUM_BUCKETS = 4


def step_keys(seed, step):
  """Keys for one step, by purpose; the same for the same seed and step."""
  names = ('time', 'noise', 'text_drop', 'aug_level', 'aug_noise', 'dropout')
  key = jax.random.fold_in(jax.random.key(seed), step)
  keys = dict(zip(names, jax.random.split(key, len(names))))
  # Folded in: to split off one more would change the noise of every run.
  keys['self_condition'] = jax.random.fold_in(key, len(names))
  return keys


def self_conditioned(apply, cond, given, z, logsnr, diffusion):
  """`cond` with a first estimate of the network's for half of the examples.

  Analog Bits (arXiv:2208.04202): no gradient flows through the estimate, which
  is zero for the other half.

  Args:
    apply: cond -> network output, [B, H, W, 3].
    cond: `structs.Cond`.
    given: which examples are given it, bool, [B].
    z: noised images, [B, H, W, 3].
    logsnr: of `z`, [B].
    diffusion: the stage's.
  """
  nothing = jnp.zeros_like(z)
  out = jax.lax.stop_gradient(apply(cond.replace(x_last=nothing)))
  x_hat = process.to_x(
    diffusion.prediction, out, z, logsnr, diffusion.sigma_data
  )
  # Clipped, as an estimate from much noise is out of all bounds.
  x_last = jnp.clip(x_hat, -1, 1) * process.broadcast(given, z)
  return cond.replace(x_last=x_last)


def loss_weight(diffusion, schedule, t):
  """What the stage's `weighting` multiplies the losses by, [B]."""
  logsnr, slope = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
  return loss.weight(
    logsnr,
    weighting=diffusion.weighting,
    loss=diffusion.loss,
    min_snr_gamma=diffusion.min_snr_gamma,
    sigmoid_bias=diffusion.sigmoid_bias,
    sigma_data=diffusion.sigma_data,
    slope=slope,
  )


def draw(batch, keys, config: config.Config) -> dict:
  """All that is drawn for a batch but dropout's masks; an example each, [B].

  Args:
    batch: `structs.Batch`.
    keys: from `step_keys`.
    config: gives the stage.
  """
  stage, diffusion = config.stage, config.stage.diffusion
  size = batch.image.shape[0]
  drawn = {
    't': jax.random.uniform(keys['time'], (size,)),
    'eps': jax.random.normal(keys['noise'], batch.image.shape),
    'drop': jax.random.bernoulli(
      keys['text_drop'], diffusion.text_drop, (size,)
    ),
  }
  if stage.lowres_size is not None:
    pixels = augmentation.noise_size(stage.image_size, stage)
    drawn['aug_eps'] = jax.random.normal(
      keys['aug_noise'], (size, pixels, pixels, 3)
    )
    draws = (size,) if diffusion.aug_per == 'example' else ()
    aug_level = jax.random.uniform(
      keys['aug_level'], draws, maxval=diffusion.aug_max
    )
    drawn['aug_level'] = jnp.broadcast_to(aug_level, (size,))
  if diffusion.self_condition:
    drawn['given'] = jax.random.bernoulli(keys['self_condition'], 0.5, (size,))
  return drawn


def losses_fn(params, batch, drawn, dropout, config: config.Config):
  """The loss of each example, [B].

  Args:
    params: of the stage's network.
    batch: `structs.Batch`.
    drawn: from `draw`.
    dropout: key of its masks.
    config: gives the stage.
  """
  stage, diffusion = config.stage, config.stage.diffusion
  x, t, eps = batch.image, drawn['t'], drawn['eps']
  size = x.shape[0]
  chex.assert_shape(x, (size, stage.image_size, stage.image_size, 3))
  schedule = cascade.stage_schedule(stage)
  logsnr = schedule(t)
  z = process.diffuse(x, eps, logsnr)
  text = cascade.drop_text(batch.text, drawn['drop'])
  cond = cascade.make_cond(
    text, batch.lowres, drawn.get('aug_eps'), drawn.get('aug_level'), stage
  )
  network = state_lib.bind(stage, params)

  def apply(cond):
    return network(
      process.scale_input(
        diffusion.prediction, z, logsnr, diffusion.sigma_data
      ),
      logsnr,
      cond,
      deterministic=stage.unet.dropout == 0,
      rngs={'dropout': dropout},
    )

  if diffusion.self_condition:
    cond = self_conditioned(apply, cond, drawn['given'], z, logsnr, diffusion)
  out = apply(cond)
  losses = loss.denoising_loss(
    out,
    x,
    eps,
    logsnr,
    prediction=diffusion.prediction,
    loss=diffusion.loss,
    sigma_data=diffusion.sigma_data,
  )
  if diffusion.weighting != 'plain':
    losses = losses * loss_weight(diffusion, schedule, t)
  return losses


def _described(losses, t):
  """Mean losses over all, and over each quarter of time."""
  metrics = {'loss': losses.mean()}
  for i in range(NUM_BUCKETS):
    inside = (t * NUM_BUCKETS).astype(jnp.int32) == i
    metrics[f'loss_t{i}'] = jnp.where(inside, losses, 0).sum() / inside.sum()
  return metrics


def loss_fn(params, batch, keys, config: config.Config):
  """Mean loss of a batch, and its parts.

  Args:
    params: of the stage's network.
    batch: `structs.Batch`.
    keys: from `step_keys`.
    config: gives the stage.

  Returns:
    The loss, and {'loss', 'loss_t0', ...}: over all, and over each quarter of
    time (NaN where a quarter drew no example).
  """
  drawn = draw(batch, keys, config)
  losses = losses_fn(params, batch, drawn, keys['dropout'], config)
  metrics = _described(losses, drawn['t'])
  return metrics['loss'], metrics


def gradients(params, batch, keys, config: config.Config):
  """Gradients of `loss_fn` and its metrics, by `train.microbatches` in turn.

  What is drawn does not depend on their number, but for dropout's masks.

  Returns:
    The gradients, and what `loss_fn` returns beside the loss.
  """
  parts = config.train.microbatches
  if parts == 1:
    return jax.grad(loss_fn, has_aux=True)(params, batch, keys, config)
  drawn = draw(batch, keys, config)

  # Every so-many-th example: each device keeps to its own rows.
  def split(x):
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

  def add(total, part):
    number, rows, draws = part
    key = jax.random.fold_in(keys['dropout'], number)

    def mean(params):
      losses = losses_fn(params, rows, draws, key, config)
      return losses.mean(), losses

    grads, losses = jax.grad(mean, has_aux=True)(params)
    total = jax.tree.map(lambda sum, grad: sum + grad / parts, total, grads)
    return total, losses

  zeros = jax.tree.map(jnp.zeros_like, params)
  each = jnp.arange(parts), *jax.tree.map(split, (batch, drawn))
  grads, losses = jax.lax.scan(add, zeros, each)
  return grads, _described(losses.swapaxes(0, 1).ravel(), drawn['t'])


def train_step(state, batch: structs.Batch, *, config: config.Config, tx):
  """The next state, and metrics that describe the one before the update."""
  keys = step_keys(config.train.seed, state.step)
  grads, metrics = gradients(state.params, batch, keys, config)
  grads = optimizer.trained(grads, config.optimizer)
  norm = alike.norm if config.optimizer.stacked else optax.tree.norm
  metrics['grad_norm'] = norm(grads)

  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  if config.train.module_norms:
    metrics |= norms.metrics(
      grads, state.params, updates, stacked=config.optimizer.stacked
    )
  params = optax.apply_updates(state.params, updates)
  step = state.step + 1
  # A short memory at first, lest the random start linger in the average.
  decay = jnp.minimum(config.train.ema_decay, (1 + step) / (10 + step))
  ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)
  ema_powers = {
    name: power_ema.update(average, params, step, power_ema.gamma(float(name)))
    for name, average in state.ema_powers.items()
  }
  new = state.replace(
    step=step,
    params=params,
    ema_params=ema_params,
    opt_state=opt_state,
    ema_powers=ema_powers,
  )
  if state.watch is not None:
    new, metrics = guard.guarded(state, new, metrics, config.guard)
  return new, metrics


def compile_step(config: config.Config, tx, shardings, mesh):
  """`train_step` jitted: the state donated and kept in its shardings.

  Raises:
    ValueError: where a microbatch does not divide over the mesh.
  """
  shards = sharding.num_batch_shards(mesh, config.mesh)
  parts, size = config.train.microbatches, config.train.batch_size
  if size % (shards * parts):
    raise ValueError(
      f'train.microbatches is {parts} with train.batch_size {size} on a mesh '
      f'that splits it {shards} times; accepted: 1, or what divides '
      f'{size / shards:g}, the examples of a device'
    )
  return jax.jit(
    functools.partial(train_step, config=config, tx=tx),
    donate_argnums=0,
    out_shardings=(shardings, jax.sharding.NamedSharding(mesh, jax.P())),
  )


def abstract_batch(config: config.Config, mesh) -> structs.Batch:
  """Shapes and shardings of the global batch, as the training loop makes it."""
  place = jax.sharding.NamedSharding(mesh, sharding.batch_spec(config.mesh))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    state_lib.abstract_batch(config, config.train.batch_size),
  )


def lower_step(config: config.Config, tx, state, mesh) -> jax.stages.Lowered:
  """The step of `compile_step`, before a compiler has seen it.

  To be called within the mesh.

  Args:
    config: the run.
    tx: its optimiser.
    state: of the run, or `state.abstract_state`.
    mesh: that they lie on.
  """
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  step = compile_step(config, tx, shardings, mesh)
  return step.lower(state, abstract_batch(config, mesh))
