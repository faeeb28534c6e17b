"""Every input of a stage reaches its output, from the real start of training.

A network that ignores an input trains all the same, and only its samples tell.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.train import optimizer
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib

UNET = {
  'channels': (8, 8),
  'num_res_blocks': (1, 1),
  'text_attention': (False, True),
  'head_dim': 4,
  'embed_dim': 8,
  'num_groups': 4,
  'remat': False,
  'dtype': 'float32',
}
# As the paper's stages have them: the base, and super-resolution with and
# without attention over pixels beside that over text.
STAGES = {
  'base': config.StageConfig(
    image_size=8,
    unet=config.UNetConfig(self_attention=(False, True), **UNET),
  ),
  'sr256': config.StageConfig(
    image_size=8,
    lowres_size=4,
    unet=config.UNetConfig(
      design='efficient', self_attention=(False, True), **UNET
    ),
  ),
  'sr1024': config.StageConfig(
    image_size=8,
    lowres_size=4,
    unet=config.UNetConfig(
      design='efficient', self_attention=(False, False), **UNET
    ),
  ),
}
QUICK = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def inputs(name):
  """z, logsnr and condition of two images, of 3 and 1 tokens."""
  mask = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
  text = structs.TextCond(normal(0, 2, 4, 6) * mask[..., None], mask)
  cond = structs.Cond(text)
  if STAGES[name].lowres_size:
    levels = jnp.array([0.0, 3.0])
    cond = cond.replace(lowres=normal(1, 2, 8, 8, 3), aug_logsnr=levels)
  return normal(2, 2, 8, 8, 3), jnp.array([-1.0, 2.0]), cond


@functools.cache
def trained(name):
  """Parameters at the start of training and after each of two steps."""
  stage = STAGES[name]
  run = config.Config(
    stage=stage,
    text=config.TextConfig(max_length=4, embed_dim=6),
    optimizer=config.OptimizerConfig(
      name='adam', learning_rate=0.05, warmup_steps=0
    ),
  )
  tx = optimizer.make_optimizer(run)
  params = sharding.unbox(
    QUICK(lambda key: state_lib.init_params(run, key))(jax.random.key(3))
  )
  state = state_lib.TrainState(jnp.int32(0), params, params, tx.init(params))
  _, _, cond = inputs(name)
  batch = structs.Batch(jnp.tanh(normal(4, 2, 8, 8, 3)), cond.text)
  if stage.lowres_size:
    batch = batch.replace(lowres=jnp.tanh(normal(5, 2, 4, 4, 3)))
  step = QUICK(functools.partial(step_lib.train_step, config=run, tx=tx))
  found = [params]
  for _ in range(2):
    state, _ = step(state, batch)
    found.append(state.params)
  return found


@functools.cache
def apply_fn(name):
  network = state_lib.make_network(STAGES[name])
  return QUICK(lambda params, *args: network.apply({'params': params}, *args))


def changed(name):
  """By what is changed: parameters to cut off, and the inputs with a change."""
  z, logsnr, cond = inputs(name)
  token = cond.text.replace(embed=cond.text.embed.at[0, 1, 2].add(1.0))
  token = z, logsnr, cond.replace(text=token)
  every = {
    'time': ((), (z, logsnr + 1.0, cond)),
    # Text has two ways in; each is tried with the other one cut.
    'pooled text': (('text_key', 'text_value'), token),
    'token sequence': (('text_pool',), token),
  }
  if cond.lowres is not None:
    lowres = cond.replace(lowres=cond.lowres.at[0, 2, 2].add(0.5))
    aug = cond.replace(aug_logsnr=cond.aug_logsnr + 1.0)
    every['low-res image'] = (), (z, logsnr, lowres)
    every['aug_level'] = (), (z, logsnr, aug)
  return every


def moved(name, step, what):
  """How far the output moves with an input, over how large it is."""
  cut, arguments = changed(name)[what]
  params = jax.tree.map_with_path(
    lambda path, leaf: (
      leaf * (not any(word in jax.tree_util.keystr(path) for word in cut))
    ),
    trained(name)[step],
  )
  run = functools.partial(apply_fn(name), params)
  out = run(*inputs(name))
  return np.abs(run(*arguments) - out).max() / np.abs(out).max()


@pytest.mark.parametrize(
  'name, what',
  [
    (name, what)
    for name in STAGES
    for what in ('time', 'pooled text', 'token sequence')
  ]
  + [
    (name, what)
    for name in ('sr256', 'sr1024')
    for what in ('low-res image', 'aug_level')
  ],
)
def test_an_input_counts_as_soon_as_it_can(name, what):
  """After one step where it enters at the stem, after two where in a block.

  The network's last convolution is zero at first, and so is each block's:
  the first step moves the one, and only then does a gradient reach the others.
  """
  assert moved(name, 2, what) > 1e-4
  first = moved(name, 1, what)
  assert first > 1e-4 if what == 'low-res image' else first == 0


@pytest.mark.parametrize('name', STAGES)
def test_masked_tokens_do_not_count(name):
  z, logsnr, cond = inputs(name)
  noisy = jnp.where(cond.text.mask[..., None], cond.text.embed, 50.0)
  run = functools.partial(apply_fn(name), trained(name)[2])
  found = run(z, logsnr, cond.replace(text=cond.text.replace(embed=noisy)))
  expected = run(z, logsnr, cond)
  limit = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['base', 'sr256'])
def test_microbatches_have_the_large_batchs_gradients(name):
  """Of a real network, which is given an estimate of its own."""
  stage = dataclasses.replace(
    STAGES[name], diffusion=config.DiffusionConfig(self_condition=True)
  )
  run = config.Config(
    stage=stage, text=config.TextConfig(max_length=4, embed_dim=6)
  )
  params = sharding.unbox(state_lib.abstract_params(run))
  leaves, treedef = jax.tree.flatten(params)
  params = treedef.unflatten(
    0.3 * normal(number, *leaf.shape) for number, leaf in enumerate(leaves)
  )
  mask = jnp.arange(4)[None] < 1 + jnp.arange(8)[:, None] % 4
  text = structs.TextCond(normal(50, 8, 4, 6) * mask[..., None], mask)
  lowres = normal(51, 8, 4, 4, 3) if stage.lowres_size else None
  batch = structs.Batch(jnp.tanh(normal(52, 8, 8, 8, 3)), text, lowres)

  def gradients(parts):
    train = config.TrainConfig(batch_size=8, microbatches=parts)
    changed = dataclasses.replace(run, train=train)
    keys = step_lib.step_keys(0, 3)
    return QUICK(lambda p: step_lib.gradients(p, batch, keys, changed))(params)

  (whole, losses), (found, same) = gradients(1), gradients(4)
  np.testing.assert_allclose(same['loss'], losses['loss'], rtol=1e-5)
  size = lambda tree: float(optax.tree.norm(tree))
  error = jax.tree.map(lambda a, b: a - b, found, whole)
  assert size(whole) > 0.01
  assert size(error) < 1e-5 * size(whole)
  # And of each parameter by itself, but for what has next to none.
  for part, of in zip(jax.tree.leaves(error), jax.tree.leaves(whole)):
    assert size(part) < 1e-3 * size(of) + 1e-7 * size(whole)
