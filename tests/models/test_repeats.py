"""Scanned blocks: the same network, of the same parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.models import repeats
from imagen_jax.models import unet

# Levels whose widths change and whose widths do not, with attention at one.
BASE = config.UNetConfig(
  channels=(8, 16, 16),
  num_res_blocks=(2, 3, 2),
  self_attention=(False, True, False),
  text_attention=(False, True, False),
  head_dim=8,
  embed_dim=16,
  num_groups=4,
  remat=False,
  dtype='float32',
)
NETS = {
  'base': BASE,
  'efficient': dataclasses.replace(BASE, design='efficient'),
}
BOTH = pytest.mark.parametrize('design', NETS)


def inputs():
  normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
  mask = jnp.array([[1, 1, 0], [1, 0, 0]], bool)
  cond = structs.Cond(structs.TextCond(normal(0, 2, 3, 6), mask))
  return normal(1, 2, 8, 8, 3), jnp.array([-1.0, 2.0]), cond


def with_unet(design, **changes):
  return unet.UNet(dataclasses.replace(NETS[design], **changes))


@functools.cache
def shapes_of(network):
  boxed = jax.eval_shape(network.init, jax.random.key(0), *inputs())
  return sharding.unbox(boxed['params'])


def shaken(shapes):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype), shapes
  )


@pytest.mark.parametrize(
  'design, way, level, expected',
  [
    # Behind the stem all are alike; behind a wider level the first is not.
    ('base', 'down', 0, [range(2)]),
    ('base', 'down', 1, [range(1), range(1, 3)]),
    ('base', 'down', 2, [range(2)]),
    # One block more; the last is given the finer level's skip.
    ('base', 'up', 2, [range(3)]),
    ('base', 'up', 1, [range(3), range(3, 4)]),
    ('base', 'up', 0, [range(1), range(1, 3)]),
    ('efficient', 'down', 1, [range(3)]),
    ('efficient', 'up', 0, [range(2)]),
  ],
)
def test_runs(design, way, level, expected):
  assert repeats.runs(NETS[design], way, level) == expected


@BOTH
@pytest.mark.parametrize('scan', [(True,), (False, True, False)])
def test_the_parameters_are_the_same_stacked(design, scan):
  """The network that scans makes what `stack` does, and `unstack` undoes."""
  plain, scanned = shapes_of(with_unet(design)), with_unet(design, scan=scan)
  stack = lambda params: repeats.stack(params, scanned.unet)
  assert jax.eval_shape(stack, plain) == shapes_of(scanned)
  names = [name for name in shapes_of(scanned) if 'blocks' in name]
  assert names and (len(scan) == 3) == all('1_blocks' in n for n in names)
  values = shaken(plain)
  back = repeats.unstack(stack(values), scanned.unet)
  assert jax.tree.structure(back) == jax.tree.structure(values)
  jax.tree.map(np.testing.assert_array_equal, back, values)


@pytest.mark.parametrize(
  'design, policy',
  [('base', 'none'), ('base', 'products'), ('efficient', 'full')],
)
def test_scanned_and_not_compute_the_same(design, policy):
  """Outputs and gradients; and the program is a loop where it should be."""
  scanned = with_unet(
    design, scan=(True,), remat=policy != 'none', remat_policy=(policy,)
  )

  def loss(network, stack, params, *arguments):
    if stack:
      params = repeats.stack(params, network.unet)
    out = network.apply({'params': params}, *arguments)
    return (out**2).mean(), out

  def grad_fn(*static):
    # What is compared is the wiring, not the machine code.
    return jax.jit(
      jax.value_and_grad(functools.partial(loss, *static), has_aux=True),
      compiler_options={'xla_backend_optimization_level': 0},
    )

  arguments = shaken(shapes_of(with_unet(design))), *inputs()
  expected = grad_fn(with_unet(design), False)(*arguments)
  run = grad_fn(scanned, True)
  found = run(*arguments)

  def check(one, other):
    limit = 3e-5 * np.abs(one).max() + 1e-9
    np.testing.assert_allclose(other, one, rtol=0, atol=limit)

  jax.tree.map(check, expected, found)
  count = sum(
    'scan[' in line for line in str(run.trace(*arguments).jaxpr).splitlines()
  )
  runs = len(list(repeats.stacked_runs(scanned.unet)))
  assert count >= 2 * runs > 0
