"""Low-res inputs as a cascade has them: made by the stages in front.

A super-resolution stage is trained on shrunk real pictures and run on generated
ones. What it makes of those at the captions of its sample grids shows the gap.
"""

import jax
import numpy as np

from imagen_jax import cascade
from imagen_jax import config as config_lib
from imagen_jax import export
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.text import agreement
from imagen_jax.train import state as state_lib

_FIELD = 'train.sample_lowres'


def load(config: config_lib.Config, identity) -> list[export.Stage]:
  """The stages of `train.sample_lowres`, on this host.

  Args:
    config: of the stage that is trained.
    identity: of its text encoder.

  Raises:
    ValueError: where they are no exports, or do not fit each other, the stage
      or its text encoder.
  """
  try:
    stages = [
      export.load_weights(folder) for folder in config.train.sample_lowres
    ]
    this = export.Stage(config.stage, config.text, {}, 0, identity)
    cascade.check_stages([each.stage for each in (*stages, this)])
    agreement.check_stages([*stages, this])
  except ValueError as error:
    # They are named as on the command line of `imagen-jax sample`.
    raise ValueError(str(error).replace('--weights', _FIELD)) from None
  return stages


def draw(
  stages: list[export.Stage], config: config_lib.Config, mesh, examples: dict
) -> np.ndarray:
  """Low-res inputs for captions, float32 [N, h, w, 3]; on every host.

  Weights lie in shards over the mesh, of one stage at a time, and are let go.
  For a stage that is trained on crops it is the crop of the real picture's
  place.

  Args:
    stages: from `load`.
    config: of the stage that is trained.
    mesh: of its run.
    examples: held-out ones; see `samples.Sampler`.
  """
  count = len(examples['caption'])
  place = sharding.rows_place(mesh, config.mesh, count)
  put = lambda x, place=place: jax.make_array_from_callback(
    x.shape, place, lambda index: x[index]
  )
  text = jax.tree.map(
    put, structs.TextCond(examples['text_embed'], examples['text_mask'])
  )
  x = None
  for number, each in enumerate(stages):
    its_config = config_lib.Config(stage=each.stage, text=each.text)
    params = jax.tree.map(
      put,
      each.params,
      sharding.param_shardings(state_lib.abstract_params(its_config), mesh),
    )

    def sample(params, text, x, each=each, number=number):
      keys = jax.random.split(jax.random.key(config.train.seed), count)
      # Not those of the stage that is trained.
      keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
      keys = jax.lax.with_sharding_constraint(keys, place)
      apply = state_lib.bind(each.stage, params)
      return cascade.sample_stage(apply, keys, text, x, each.stage)

    with sharding.use_mesh(mesh, config.mesh):
      x = jax.jit(sample, out_shardings=place)(params, text, x)
    x.block_until_ready()
    jax.tree.map(lambda leaf: leaf.delete(), params)
  with sharding.use_mesh(mesh, config.mesh):
    whole = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))(x)
  return _cut(np.asarray(whole), examples['place'], config)


def _cut(pictures, places, config):
  """The squares of `pictures` that the stage is trained on."""
  size = config.stage.lowres_size
  spare = pictures.shape[1] - size
  if not spare:
    return pictures
  cuts = []
  for picture, place in zip(pictures, places):
    left = top = spare // 2
    if config.data.crop == 'random':
      left, top = (int(share * (spare + 1)) for share in place)
    cuts.append(picture[top : top + size, left : left + size])
  return np.stack(cuts)
