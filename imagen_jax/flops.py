"""Operations and memory of a function, counted from its jaxpr.

Nothing is computed or compiled, so a network of any size can be counted
anywhere. Products (convolutions, dense layers, attention) are counted exactly:
two operations a multiplication, padding included as is usual, the zeros that a
strided convolution's gradient is diluted with left out. What is done element by
element is not counted: it is about a hundredth of the operations, and takes its
time by bytes. XLA's own count of a lowered program is of little use here, as it
takes a loop's body once.
"""

import collections
import math

import jax
from jax.extend import core


def products(jaxpr: core.Jaxpr, scope: str = '') -> collections.Counter:
  """Operations of the products of a jaxpr, by the scope they are in.

  Args:
    jaxpr: of `jax.make_jaxpr(...)(...).jaxpr`.
    scope: that it is called from.

  Returns:
    Operations by 'Network/module/part', as Linen names its scopes.

  Raises:
    ValueError: for a loop whose length is not in the program.
  """
  total = collections.Counter()
  for eqn in jaxpr.eqns:
    here = f'{scope}/{eqn.source_info.name_stack}'.strip('/')
    primitive = eqn.primitive.name
    if primitive == 'dot_general':
      total[here] += _dot(eqn)
    elif primitive == 'conv_general_dilated':
      total[here] += _convolution(eqn)
    elif primitive == 'while':
      raise ValueError('a while loop has no length to count products by')
    elif primitive == 'cond':
      branches = [products(b.jaxpr, here) for b in eqn.params['branches']]
      total += max(branches, key=lambda branch: branch.total())
    else:
      times = eqn.params['length'] if primitive == 'scan' else 1
      for inner in _inside(eqn):
        for name, count in products(inner, here).items():
          total[name] += times * count
  return total


def _inside(eqn):
  """The jaxprs that an equation calls."""
  for value in eqn.params.values():
    for each in value if isinstance(value, (list, tuple)) else (value,):
      if isinstance(each, core.ClosedJaxpr):
        yield each.jaxpr
      elif isinstance(each, core.Jaxpr):
        yield each


def _dot(eqn):
  (contracted, _), _ = eqn.params['dimension_numbers']
  shape = eqn.invars[0].aval.shape
  length = math.prod(shape[axis] for axis in contracted)
  return 2 * eqn.outvars[0].aval.size * length


def _convolution(eqn):
  numbers = eqn.params['dimension_numbers']
  _, channels_in, *window = numbers.rhs_spec
  shape = eqn.invars[1].aval.shape
  length = shape[channels_in] * math.prod(shape[axis] for axis in window)
  # Of a diluted input only one pixel in so many is not 0.
  dilution = math.prod(eqn.params['lhs_dilation'])
  return 2 * eqn.outvars[0].aval.size * length // dilution


def kept(loss, params, *arguments) -> list[tuple[int, str, str]]:
  """What `loss`'s backward pass is left by its forward pass, largest first.

  As differentiation has it: XLA may keep less, and computes with more.
  Parameters and arguments themselves do not count.

  Args:
    loss: (params, *arguments) -> scalar.
    params: shapes of what it is differentiated by.
    *arguments: shapes of the rest.

  Returns:
    (bytes, scope that it comes of, type and shape) of each array.
  """

  def forward(params, arguments):
    _, backward = jax.vjp(lambda p: loss(p, *arguments), params)
    return jax.tree.leaves(backward)

  jaxpr = jax.make_jaxpr(forward)(params, arguments).jaxpr
  scopes = {
    var: str(eqn.source_info.name_stack)
    for eqn in jaxpr.eqns
    for var in eqn.outvars
  }
  given = set(jaxpr.invars)
  found = [
    (
      var.aval.size * var.aval.dtype.itemsize,
      scopes.get(var, ''),
      var.aval.str_short(),
    )
    # Once each, however often it is used.
    for var in dict.fromkeys(
      var for var in jaxpr.outvars if not isinstance(var, core.Literal)
    )
    if var not in given
  ]
  return sorted(found, key=lambda each: (-each[0], *each[1:]))


def kept_bytes(loss, params, *arguments) -> int:
  """Bytes of all that `kept` lists."""
  return sum(size for size, _, _ in kept(loss, params, *arguments))
