"""The training state, and how it is born in shards."""

import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp
import optax

from imagen_jax import config
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.models import repeats
from imagen_jax.models import unet
from imagen_jax.train import guard
from imagen_jax.train import power_ema

# Configs whose parameters' shapes are kept: to trace a network takes seconds.
_REMEMBERED = 8


@struct.dataclass
class TrainState:
  """What a step maps to the next.

  Attributes:
    step: finished updates, int32.
    params: of the network, float32.
    ema_params: their running average.
    opt_state: the optimiser's.
    watch: what is remembered to judge steps by; None where they are not. It is
      saved with the position in the data.
    ema_powers: further averages, by the name of their length; see `power_ema`.
  """

  step: jax.Array
  params: dict
  ema_params: dict
  opt_state: optax.OptState
  watch: guard.Watch | None = None
  ema_powers: dict = struct.field(default_factory=dict)


def make_network(stage: config.StageConfig) -> unet.UNet:
  """The stage's network, without parameters.

  Its blocks are not scanned: it takes parameters as a state has them.
  """
  plain = dataclasses.replace(stage.unet, scan=(False,))
  return unet.UNet(
    plain,
    lowres=stage.lowres_size is not None,
    self_condition=stage.diffusion.self_condition,
  )


def bind(stage: config.StageConfig, params):
  """(z, logsnr, cond, ...) -> output, with blocks scanned as the config has it.

  Args:
    stage: the stage.
    params: as a state has them; stacked here, so to be called outside loops.
  """
  network = make_network(stage)
  if any(stage.unet.scan):
    network = network.clone(unet=stage.unet)
    params = repeats.stack(params, stage.unet)
  return functools.partial(network.apply, {'params': params})


def example_inputs(config: config.Config, batch_size=1):
  """Abstract (z, logsnr, cond) as the stage's network takes them."""
  size = config.stage.image_size
  image = jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32)
  logsnr = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
  tokens = (batch_size, config.text.max_length)
  text = structs.TextCond(
    embed=jax.ShapeDtypeStruct((*tokens, config.text.embed_dim), jnp.float32),
    mask=jax.ShapeDtypeStruct(tokens, jnp.bool_),
  )
  cond = structs.Cond(text)
  if config.stage.lowres_size is not None:
    cond = cond.replace(lowres=image, aug_logsnr=logsnr)
  if config.stage.diffusion.self_condition:
    cond = cond.replace(x_last=image)
  return image, logsnr, cond


def abstract_batch(config: config.Config, size: int) -> structs.Batch:
  """Shapes of a batch of so many examples, as the training loop makes it."""
  pixels, lowres = config.stage.image_size, config.stage.lowres_size
  image = lambda n: jax.ShapeDtypeStruct((size, n, n, 3), jnp.float32)
  tokens = (size, config.text.max_length)
  text = structs.TextCond(
    # As stores hold it.
    jax.ShapeDtypeStruct((*tokens, config.text.embed_dim), jnp.bfloat16),
    jax.ShapeDtypeStruct(tokens, jnp.bool_),
  )
  return structs.Batch(image(pixels), text, lowres and image(lowres))


def init_params(config: config.Config, key):
  """The network's parameters, boxed with their logical axis names."""
  inputs = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), example_inputs(config)
  )
  return make_network(config.stage).init(key, *inputs)['params']


@functools.lru_cache(_REMEMBERED)
def abstract_params(config: config.Config):
  """Shapes of the network's parameters, boxed; nothing is computed."""
  return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def state_shardings(config: config.Config, tx, mesh) -> TrainState:
  """The sharding of every leaf of the state."""
  boxed = abstract_params(config)
  params = sharding.param_shardings(boxed, mesh)
  return TrainState(
    step=sharding.replicated(mesh),
    params=params,
    ema_params=params,
    opt_state=sharding.opt_shardings(tx, sharding.unbox(boxed), params, mesh),
    watch=jax.tree.map(
      lambda _: sharding.replicated(mesh), guard.fresh(config.guard)
    ),
    ema_powers=_for_lengths(config, params),
  )


def _init(config, tx, key):
  params = sharding.unbox(init_params(config, key))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # A copy: a donated buffer may not stand in two places.
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=tx.init(params),
    watch=guard.fresh(config.guard),
    # The first step takes their place, whole, unless it is a bad one.
    ema_powers=jax.tree.map(jnp.copy, _for_lengths(config, params)),
  )


def _for_lengths(config, tree):
  """`tree` for each of `train.ema_lengths`."""
  return {power_ema.name(length): tree for length in config.train.ema_lengths}


def shapes(config: config.Config, tx) -> TrainState:
  """Shapes of the state, wherever it lies."""
  params = sharding.unbox(abstract_params(config))
  return TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    params=params,
    ema_params=params,
    opt_state=jax.eval_shape(tx.init, params),
    watch=jax.eval_shape(lambda: guard.fresh(config.guard)),
    ema_powers=_for_lengths(config, params),
  )


def abstract_state(config: config.Config, tx, shardings) -> TrainState:
  """Shapes and shardings of the state, to restore into."""
  return jax.tree.map(
    lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
    shapes(config, tx),
    shardings,
  )


def init_state(config: config.Config, tx, shardings) -> TrainState:
  """A new state from `train.seed`; no device ever holds more than its shard."""
  init = compile_init(config, tx, shardings)
  return init(jax.random.key(config.train.seed))


def compile_init(config: config.Config, tx, shardings):
  """What makes a new state of a key, jitted."""
  return jax.jit(lambda key: _init(config, tx, key), out_shardings=shardings)
