"""The optimiser of a config, in Optax's parts."""

import jax
import optax

from imagen_jax import config
from imagen_jax.train import alike


def learning_rate(config: config.Config) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then constant or a cosine to 0.

  The paper's printed schedule ends at 2,500,000, a misprint (appendix F); its
  prose has a warm-up to a constant.
  """
  opt = config.optimizer
  if opt.decay == 'constant':
    tail = optax.constant_schedule(opt.learning_rate)
  else:
    steps = max(config.train.num_steps - opt.warmup_steps, 1)
    tail = optax.cosine_decay_schedule(opt.learning_rate, steps)
  if not opt.warmup_steps:
    return tail
  warmup = optax.linear_schedule(0, opt.learning_rate, opt.warmup_steps)
  return optax.join_schedules([warmup, tail], [opt.warmup_steps])


def make_optimizer(config: config.Config) -> optax.GradientTransformation:
  """Clipping by global norm, then Adafactor or Adam (paper, appendix F)."""
  opt = config.optimizer
  rate = learning_rate(config)
  if opt.name == 'adafactor':
    tx = optax.adafactor(rate)
  else:
    kernels = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    tx = optax.adamw(
      rate,
      b1=opt.b1,
      b2=opt.b2,
      eps=opt.eps,
      weight_decay=opt.weight_decay,
      mask=kernels,
    )
  clip = optax.clip_by_global_norm
  if opt.stacked:
    tx, clip = alike.by_kind(tx), alike.clip
  return optax.chain(clip(opt.clip_norm), tx) if opt.clip_norm else tx
