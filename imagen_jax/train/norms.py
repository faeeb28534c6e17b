"""Norms by module: which level of a network learns, and how fast.

Where one level's gradients vanish or its weights grow, the norm over all hides
it. A module is a level, or a part that no level has; see `unet.module_of`.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.models import unet
from imagen_jax.train import alike

# Of a step's metrics that are vectors: one number a module.
_SUFFIX = '_norms_by_module'


def modules(params) -> dict[str, list[int]]:
  """The leaves of each module's parameters, by number.

  Args:
    params: of the network, as a state has them; or what is like them.
  """
  found = collections.defaultdict(list)
  for i, (path, _) in enumerate(jax.tree.leaves_with_path(params)):
    found[unet.module_of(path[0].key)].append(i)
  return dict(found)


def by_module(tree, *, stacked: bool) -> jax.Array:
  """The norm of each module's leaves, float32, in the order of `modules`.

  Args:
    tree: like the parameters.
    stacked: whether leaves of one shape are taken as one stack, as in `alike`.
  """
  leaves, found = jax.tree.leaves(tree), modules(tree)
  if not stacked:
    squares = [jnp.sum(jnp.square(x), dtype=jnp.float32) for x in leaves]
    totals = [sum(squares[i] for i in numbers) for numbers in found.values()]
    return jnp.sqrt(jnp.stack(totals))
  owner = np.zeros(len(leaves), np.int32)
  for place, numbers in enumerate(found.values()):
    owner[numbers] = place
  kinds = alike.kinds(tree)
  squares = jnp.concatenate([alike.squares(leaves, kind) for kind in kinds])
  # In the order of the stacks: which module each of their rows is of.
  owner = owner[np.concatenate(kinds)]
  return jnp.sqrt(jax.ops.segment_sum(squares, owner, len(found)))


def metrics(grads, params, updates, *, stacked: bool) -> dict[str, jax.Array]:
  """Norms by module, of three trees, as a step's metrics: a vector each."""
  trees = {'grad': grads, 'param': params, 'update': updates}
  return {
    f'{name}{_SUFFIX}': by_module(tree, stacked=stacked)
    for name, tree in trees.items()
  }


def named(values: dict, params) -> dict[str, float]:
  """`values` with a metric for each number of the vectors of `metrics`.

  Args:
    values: metrics, some of them vectors.
    params: of the network, for the modules' names.
  """
  found = {}
  for name, value in values.items():
    if name.endswith(_SUFFIX):
      kind = name.removesuffix(_SUFFIX)
      for module, number in zip(modules(params), value, strict=True):
        found[f'{kind}_norm/{module}'] = float(number)
    else:
      found[name] = value
  return found
