"""Sample grids of a run: held-out captions, drawn with its weights."""

import io

import jax
import numpy as np

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import grid
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.train import colours
from imagen_jax.train import state as state_lib

# Captions side by side, at most so many in a row of the sheet.
_COLUMNS = 8


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
    generated: low-res images that the stages in front made of the captions
      (`lowres.draw`), to be given in the place of the real ones too.
  """

  def __init__(
    self,
    cfg: config.Config,
    examples: dict,
    mesh,
    *,
    footer='',
    generated: np.ndarray | None = None,
  ):
    self._cfg, self._examples, self._mesh = cfg, examples, mesh
    self._footer = footer
    count = len(examples['caption'])
    place = sharding.rows_place(mesh, cfg.mesh, count)

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
    self._text = jax.tree.map(put, text)
    self._lowres = {'real': examples.get('lowres')}
    if generated is not None:
      self._lowres['generated'] = generated
    self._inputs = jax.tree.map(put, self._lowres)

  def draw(self, params) -> dict[str, np.ndarray]:
    """Samples by what they are made of; to be called on every host.

    Returns:
      uint8 [N, H, W, 3] as 'real' and, where there are low-res inputs that
      stages in front have made, of these as 'generated'.
    """
    with sharding.use_mesh(self._mesh, self._cfg.mesh):
      return {
        name: to_uint8(self._draw(params, self._text, lowres))
        for name, lowres in self._inputs.items()
      }

  def metrics(self, drawn: dict[str, dict]) -> dict[str, float]:
    """How far colours are from those of data; see `colours.against`.

    `sample_*` is against the real pictures of the same captions,
    `sample_gap_*` what low-res inputs change that were generated, and
    `sample_lowres_*` how far these are from real ones.

    Args:
      drawn: {prefix of the names: what `draw` returned}.
    """
    data = to_uint8(self._examples['image'])
    found = {}
    for name, samples in drawn.items():
      found[name] = colours.against(samples['real'], data)
      if 'generated' in samples:
        gap = colours.against(samples['generated'], samples['real'])
        found[f'{name}_gap'] = gap
    if 'generated' in self._lowres:
      low = {name: to_uint8(x) for name, x in self._lowres.items()}
      found['sample_lowres'] = colours.against(low['generated'], low['real'])
    return {
      f'{name}_{what}': value
      for name, values in found.items()
      for what, value in values.items()
    }

  def sheet(self, drawn: dict[str, dict]) -> tuple[bytes, tuple[int, int]]:
    """A labelled grid of pictures as PNG.

    Real pictures, their low-res inputs and samples stand one above the other.

    Args:
      drawn: {title of a row: what `draw` returned}.

    Returns:
      The PNG and its size (width, height).
    """
    rows = {'real': to_uint8(self._examples['image'])}
    for name, lowres in self._lowres.items():
      of = '' if name == 'real' else f', of {name}'
      if lowres is not None:
        factor = self._cfg.stage.image_size // self._cfg.stage.lowres_size
        large = to_uint8(lowres).repeat(factor, axis=1).repeat(factor, axis=2)
        rows['low-res' if name == 'real' else f'{name} low-res'] = large
      rows |= {
        f'{title}{of}': samples[name] for title, samples in drawn.items()
      }
    captions = self._examples['caption']
    columns = min(len(captions), _COLUMNS)
    images, labels, titles = [], [], []
    for start in range(0, len(captions), columns):
      part = slice(start, start + columns)
      blank = columns - len(captions[part])
      for title, pictures in rows.items():
        titles.append(title)
        images.append(pictures[part])
        images.append(np.full((blank, *pictures.shape[1:]), 255, np.uint8))
      # Under the last of the rows that they are of.
      labels += [''] * (columns * (len(rows) - 1))
      labels += [*captions[part], *[''] * blank]
    picture = grid.grid(
      np.concatenate(images),
      labels,
      columns=columns,
      row_titles=titles,
      scale=-(-96 // self._cfg.stage.image_size),
      footer=self._footer or None,
    )
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG')
    return buffer.getvalue(), picture.size
