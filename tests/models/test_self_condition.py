"""The network's own last estimate, as an input of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.train import state as state_lib


@pytest.mark.parametrize('row', ['base', 'sr'])
def test_it_counts_after_a_step(row, tiny):
  """The output starts at zero, so that one step is needed to see it."""
  cfg = config_lib.override(
    config_lib.load(f'{tiny}:{row}'), ['stage.diffusion.self_condition=true']
  )
  network = state_lib.make_network(cfg.stage)
  # As one program each: what is called by itself is compiled by itself.
  init = jax.jit(lambda key: sharding.unbox(state_lib.init_params(cfg, key)))
  params = init(jax.random.key(0))
  inputs = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(1), x.shape).astype(x.dtype),
    state_lib.example_inputs(cfg, batch_size=2),
  )

  apply = jax.jit(
    lambda params, *inputs: network.apply({'params': params}, *inputs)
  )

  @jax.jit
  def step(params):
    loss = lambda params: ((apply(params, *inputs) - 1) ** 2).mean()
    grads = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

  params = step(params)
  z, logsnr, cond = inputs
  other = cond.replace(x_last=jnp.zeros_like(cond.x_last))
  found = [apply(params, z, logsnr, each) for each in (cond, other)]
  assert np.abs(found[0] - found[1]).max() > 1e-4


def test_without_it_the_network_is_what_it_was(tiny):
  cfg = config_lib.load(tiny)
  on = config_lib.override(cfg, ['stage.diffusion.self_condition=true'])
  stem, wider = (
    sharding.unbox(state_lib.abstract_params(c))['stem']['kernel'].shape
    for c in (cfg, on)
  )
  assert stem[2] == 3 and wider[2] == 6
