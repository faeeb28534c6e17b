"""An optimiser's work on parameters that are alike, done for all at once.

A U-Net of the paper has a thousand parameters and a few dozen shapes of them.
Written out for each, an optimiser is most of a step's program, and of what it
takes to compile one. So those of one shape are stacked where they are
updated. The state has them apart, as checkpoints and exports know them.
"""

import collections

import jax
import jax.numpy as jnp
import optax


def kinds(tree) -> list[list[int]]:
  """Which leaves of a tree have one shape and type, by number."""
  found = collections.defaultdict(list)
  for i, leaf in enumerate(jax.tree.leaves(tree)):
    found[leaf.shape, leaf.dtype].append(i)
  return list(found.values())


def norm(tree):
  """The norm of all leaves together, as `optax.tree.norm` has it."""
  leaves = jax.tree.leaves(tree)
  squares = [
    jnp.sum(jnp.square(_stack(leaves, kind)), dtype=jnp.float32)
    for kind in kinds(tree)
  ]
  return jnp.sqrt(sum(squares))


def squares(leaves, kind):
  """Each leaf's sum of squares, of those of one kind, float32 [n]."""
  each = jnp.square(_stack(leaves, kind))
  return jnp.sum(each, axis=range(1, each.ndim), dtype=jnp.float32)


def clip(max_norm: float) -> optax.GradientTransformation:
  """Optax's clipping by global norm, whose state is nothing either."""

  def update(updates, state, params=None):
    del params
    size = norm(updates)
    factor = jnp.where(size < max_norm, 1.0, max_norm / size)
    return jax.tree.map(lambda u: u * factor, updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def by_kind(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """`tx` with its update mapped over those parameters that are alike.

  Args:
    tx: what treats each parameter by itself, like Adam and Adafactor. What
      goes by more than one, such as a global norm, would go by each.

  Returns:
    Of the same state as `tx`.
  """

  def update(updates, state, params=None):
    if params is None:
      raise ValueError('an update by kind needs the parameters')
    treedef = jax.tree.structure(params)
    if jax.tree_util.treedef_is_leaf(treedef):
      return tx.update(updates, state, params)
    # A part of the state is a tree like the parameters, or nobody's own, like
    # a count of steps.
    owned = lambda x: jax.tree.structure(x) == treedef
    parts, outline = jax.tree.flatten(state, is_leaf=owned)
    axes = [0 if owned(part) else None for part in parts]
    apart = [jax.tree.leaves(part) if owned(part) else part for part in parts]
    grads, values = jax.tree.leaves(updates), jax.tree.leaves(params)

    def one(grad, value, parts):
      grad, new = tx.update(grad, outline.unflatten(parts), value)
      return grad, outline.flatten_up_to(new)

    done = [None] * len(values)
    new = [list(part) if axis == 0 else part for part, axis in zip(apart, axes)]
    for kind in kinds(params):
      given = [
        _stack(part, kind) if axis == 0 else part
        for part, axis in zip(apart, axes)
      ]
      stacked, changed = jax.vmap(one, (0, 0, axes), (0, axes))(
        _stack(grads, kind), _stack(values, kind), given
      )
      for place, i in enumerate(kind):
        done[i] = stacked[place]
        for part, axis, made in zip(new, axes, changed):
          if axis == 0:
            part[i] = made[place]
      new = [
        part if axis == 0 else made
        for part, axis, made in zip(new, axes, changed)
      ]
    new = [
      treedef.unflatten(part) if axis == 0 else part
      for part, axis in zip(new, axes)
    ]
    return treedef.unflatten(done), outline.unflatten(new)

  return optax.GradientTransformation(tx.init, update)


def _stack(leaves, kind):
  return jnp.stack([leaves[i] for i in kind])
