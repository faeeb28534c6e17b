"""Contact sheets of a build: what stays of a task, and copies with partners."""

from collections.abc import Sequence
import textwrap

import numpy as np
from PIL import Image

from imagen_jax import grid
from imagen_jax import pictures
from imagen_jax.data import examples
from imagen_jax.prepare import facts as facts_lib
from imagen_jax.prepare import folder
from imagen_jax.prepare import parts as parts_lib
from imagen_jax.prepare import summary as summary_lib
from imagen_jax.shards import files

_SIDE = 128
_LABEL = 80  # Characters.
_COLUMNS = 8
_KINDS = {summary_lib.EXACT: 'same pixels', summary_lib.NEAR: 'looks alike'}


def kept(
  out: str,
  parts: Sequence[parts_lib.Part],
  counts: Sequence[dict],
  footer: str,
) -> Image.Image:
  """Returns some pictures that stay, drawn by lot, with a caption each.

  Args:
    out: the folder of the build.
    parts: all of them.
    counts: summaries of the task's parts.
    footer: a text under all.
  """
  ranks = [rank for each in counts for _, rank in each['shown']]
  rows = [_row(out, parts, rank) for rank in sorted(ranks)]
  labels = [_short(row['captions'][0].decode()) for row in rows]
  cells = [_cell(row) for row in rows]
  return grid.grid(
    cells, labels, min(_COLUMNS, len(cells)), scale=1, footer=footer or None
  )


def copies(
  out: str,
  parts: Sequence[parts_lib.Part],
  counts: Sequence[dict],
  footer: str,
) -> Image.Image | None:
  """Returns some copies, each left of what it is one of; None without any.

  Args:
    out: the folder of the build.
    parts: all of them.
    counts: summaries of the task's parts.
    footer: a text under all.
  """
  cells, labels = [], []
  pairs = [pair for each in counts for pair in each['pairs']]
  for _, rank, partner, kind in sorted(pairs, key=lambda pair: pair[1]):
    both = [_cell(_row(out, parts, one)) for one in (rank, partner)]
    cells.append(np.concatenate(both, 1))
    of, _ = parts_lib.located(parts, partner)
    labels.append(f'{_KINDS[kind]}, of {of.part.task.name}')
  if not cells:
    return None
  return grid.grid(
    cells,
    labels,
    min(_COLUMNS // 2, len(cells)),
    scale=1,
    footer=footer or None,
  )


def _row(out, parts, rank):
  """Returns a spooled record, whether or not it stays."""
  some, index = parts_lib.located(parts, rank)
  _, facts = facts_lib.read(out, some.name)
  number = int(np.searchsorted(facts['index'], index))
  start = int(facts['stop'][number - 1]) if number else 0
  path = folder.path(out, folder.SPOOL, some.name)
  spool = files.stat(path, folder.FIELD)
  return examples.parse(spool.read(start, int(facts['stop'][number])))


def _cell(row):
  """Returns a picture on white, uint8 [_SIDE, _SIDE, 3]."""
  picture = pictures.decode(row['image'][0]).image
  picture.thumbnail((_SIDE, _SIDE), Image.Resampling.HAMMING)
  cell = Image.new('RGB', (_SIDE, _SIDE), 'white')
  place = ((_SIDE - picture.width) // 2, (_SIDE - picture.height) // 2)
  cell.paste(picture, place)
  return np.asarray(cell)


def _short(caption):
  return textwrap.shorten(caption, _LABEL, placeholder=' ...')
