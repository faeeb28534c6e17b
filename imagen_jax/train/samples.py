"""Sample grids of a run: held-out captions, drawn with the EMA weights."""

import io

import jax
import numpy as np

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import grid
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.train import state as state_lib


def to_uint8(x) -> np.ndarray:
  """Images in [-1, 1] as bytes."""
  return np.asarray(np.round((np.asarray(x) + 1) * 127.5), np.uint8)


class Sampler:
  """Draws the same held-out captions with the same noise, as a run goes on.

  A super-resolution stage is given the real low-res image. One that is trained
  on crops shows crops: held-out ones, each from its own low-res image. How
  whole pictures come out, `imagen-jax sample` shows.

  Args:
    cfg: the run.
    examples: a batch of `data.loader.eval_batches`, the same on every host.
    mesh: the run's.
    footer: a text under each sheet, as the licences of real pictures ask for.
  """

  def __init__(self, cfg: config.Config, examples: dict, mesh, *, footer=''):
    self._cfg, self._examples, self._mesh = cfg, examples, mesh
    self._footer = footer
    count = len(examples['caption'])
    place = sharding.replicated(mesh)
    if count % sharding.num_batch_shards(mesh, cfg.mesh) == 0:
      spec = sharding.batch_spec(cfg.mesh)
      place = jax.sharding.NamedSharding(mesh, spec)

    def draw(params, text, lowres):
      keys = jax.random.split(jax.random.key(cfg.train.seed), count)
      keys = jax.lax.with_sharding_constraint(keys, place)
      apply = state_lib.bind(cfg.stage, params)
      return cascade.sample_stage(apply, keys, text, lowres, cfg.stage)

    self._draw = jax.jit(draw, out_shardings=sharding.replicated(mesh))
    put = lambda x: jax.make_array_from_callback(
      x.shape, place, lambda index: x[index]
    )
    text = structs.TextCond(examples['text_embed'], examples['text_mask'])
    self._inputs = jax.tree.map(put, (text, examples.get('lowres')))

  def draw(self, ema_params) -> np.ndarray:
    """Samples, uint8 [N, H, W, 3]; to be called on every host."""
    with sharding.use_mesh(self._mesh, self._cfg.mesh):
      return to_uint8(self._draw(ema_params, *self._inputs))

  def sheet(self, samples: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """A labelled grid of pictures as PNG.

    Real pictures, their low-res inputs and samples stand side by side.

    Returns:
      The PNG and its size (width, height).
    """
    rows = {'real': to_uint8(self._examples['image'])}
    if 'lowres' in self._examples:
      size = self._cfg.stage.image_size // self._cfg.stage.lowres_size
      lowres = to_uint8(self._examples['lowres'])
      rows['low-res'] = lowres.repeat(size, axis=1).repeat(size, axis=2)
    rows['sample'] = samples
    captions = self._examples['caption']
    # Captions side by side, at most 8 in a row of the sheet.
    columns = min(len(captions), 8)
    images, labels, titles = [], [], []
    for start in range(0, len(captions), columns):
      part = slice(start, start + columns)
      blank = columns - len(captions[part])
      for title, pictures in rows.items():
        titles.append(title)
        labels += (
          captions[part] if title == 'sample' else [''] * (columns - blank)
        )
        labels += [''] * blank
        images.append(pictures[part])
        images.append(np.full((blank, *pictures.shape[1:]), 255, np.uint8))
    picture = grid.grid(
      np.concatenate(images),
      labels,
      columns=columns,
      row_titles=titles,
      scale=-(-96 // samples.shape[1]),
      footer=self._footer or None,
    )
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG')
    return buffer.getvalue(), picture.size
