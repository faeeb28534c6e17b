"""The optimiser of a config, in Optax's parts."""

import fnmatch
import functools

import jax
import jax.numpy as jnp
import optax

from imagen_jax import config
from imagen_jax.train import alike

# Of the parameters that no rule takes.
_REST = 'rest'


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
  """Clipping by global norm, then Adafactor or Adam (paper, appendix F).

  Raises:
    ValueError: by its `init`, where a rule takes no parameter.
  """
  opt = config.optimizer
  rate = learning_rate(config)
  if opt.rules:
    tx = _by_rules(opt, rate)
  else:
    tx = _update(opt, rate, opt.weight_decay, _kernels)
  parts = [tx]
  if opt.clip_norm:
    clip = alike.clip if opt.stacked else optax.clip_by_global_norm
    parts.insert(0, clip(opt.clip_norm))
  if any(rule.freeze for rule in opt.rules):
    parts.insert(0, optax.masked(optax.set_to_zero(), _frozen(opt)))
  return optax.chain(*parts) if len(parts) > 1 else tx


def trained(grads, opt: config.OptimizerConfig):
  """`grads` with zeros in the place of those of frozen parameters.

  What is measured of a gradient is so of what is trained, as clipping is, and
  the compiler leaves out what would be computed for the others alone.

  Args:
    grads: a tree like the parameters.
    opt: says which are frozen.
  """
  if not any(rule.freeze for rule in opt.rules):
    return grads
  return jax.tree.map(
    lambda grad, frozen: jnp.zeros_like(grad) if frozen else grad,
    grads,
    _frozen(opt)(grads),
  )


def _update(opt, rate, weight_decay, decays):
  """The update of parameters that are treated in one way."""
  moment_dtype = None if opt.moment_dtype == 'float32' else opt.moment_dtype
  if opt.name == 'adafactor':
    tx = optax.adafactor(
      rate,
      momentum=opt.momentum or None,
      dtype_momentum=moment_dtype or jnp.float32,
    )
  else:
    tx = optax.adamw(
      rate,
      b1=opt.b1,
      b2=opt.b2,
      eps=opt.eps,
      mu_dtype=moment_dtype,
      weight_decay=weight_decay,
      mask=decays,
    )
  return alike.by_kind(tx) if opt.stacked else tx


def _kernels(params):
  return jax.tree.map(lambda p: p.ndim > 1, params)


def _all(params):
  return jax.tree.map(lambda p: True, params)


def _by_rules(opt, rate):
  """An update for each rule, and one for the rest."""
  updates = {_REST: _update(opt, rate, opt.weight_decay, _kernels)}
  for number, rule in enumerate(opt.rules):
    if rule.freeze:
      updates[str(number)] = optax.set_to_zero()
      continue
    own = functools.partial(_times, rule.learning_rate, rate)
    decay, decays = opt.weight_decay, _kernels
    if rule.weight_decay is not None:
      decay, decays = rule.weight_decay, _all
    updates[str(number)] = _update(opt, own, decay, decays)
  return optax.partition(updates, functools.partial(_labels, opt.rules))


def _times(factor, rate, count):
  return factor * rate(count)


def _frozen(opt):
  """parameters -> which of them a rule freezes."""
  frozen = {str(n) for n, rule in enumerate(opt.rules) if rule.freeze}

  def mask(params):
    return jax.tree.map(lambda x: x in frozen, _labels(opt.rules, params))

  return mask


def _labels(rules, params):
  """The number of the rule that takes a parameter, or that none does, of each.

  Raises:
    ValueError: where a rule takes none.
  """

  def label(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    fits = (
      str(number)
      for number, rule in enumerate(rules)
      if fnmatch.fnmatchcase(name, rule.path)
    )
    return next(fits, _REST)

  labels = jax.tree.map_with_path(label, params)
  named = jax.tree.leaves_with_path(labels)
  taken = {found for _, found in named}
  for number, rule in enumerate(rules):
    # Optax asks for the labels of a stand-in for all parameters, too.
    if named and str(number) not in taken:
      some = jax.tree_util.keystr(named[0][0], simple=True, separator='/')
      raise ValueError(
        f'optimizer.rules[{rule.path}] takes no parameter that no rule before '
        f'it takes; accepted: paths with *, of such as {some}'
      )
  return labels
