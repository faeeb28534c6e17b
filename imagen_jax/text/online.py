"""Embeddings computed during training, in place of a store.

The encoder lies on the mesh of the training, in shards. Batches are read some
steps ahead, and the captions of a window of them are encoded together: by
length, in the shapes of the store (`shapes.py`), so that little is padding and
the embeddings have the bits that a store of the same config would give. The
next window is computed by the devices while this one is trained on.
"""

import math

import jax
from jax.experimental import multihost_utils
import numpy as np

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.text import codec
from imagen_jax.text import encoder as encoder_lib
from imagen_jax.text import shapes as shapes_lib
from imagen_jax.text import tokenizer as tokenizer_lib

# A window has so many times the captions that devices encode at once, if its
# pictures fit in so many bytes of a host: most lengths then fill their batches.
_BATCHES = 8
_WINDOW_BYTES = 2**30


class Online:
  """The encoder of a config on the mesh of its training.

  Every method computes on all hosts, and so is to be called on all of them, in
  the same order.

  Attributes:
    num_captions: of this host's, how many were encoded.
    num_cut: how many of them were longer than `text.max_length`.
  """

  def __init__(self, text: config_lib.TextConfig, mesh, encoder=None):
    """Restores the encoder.

    Args:
      text: the config.
      mesh: of the training.
      encoder: an `encoder.TextEncoder` on this mesh; None makes one.

    Raises:
      ValueError: as `encoder.TextEncoder`.
    """
    self.text = text
    self.mesh = mesh
    self.shapes = shapes_lib.lengths(text.max_length)
    self.num_captions = self.num_cut = 0
    self._encoder = encoder or encoder_lib.TextEncoder(text, mesh)
    shards = mesh.shape['data'] * mesh.shape['fsdp']
    self.rows = len(sharding.local_rows(mesh, shards)) * text.rows

  def start(self, captions: list[str]):
    """Starts to encode this host's captions; `finish` gives the embeddings."""
    tokens, num_cut = self._encoder.tokenizer.ragged(
      captions, self.text.max_length
    )
    self.num_captions += len(captions)
    self.num_cut += num_cut
    lengths = np.array([len(ids) for ids in tokens])
    batches = {length: [] for length in self.shapes}
    for positions, length in shapes_lib.tiles(lengths, self.shapes, self.rows):
      batches[length].append(positions)
    counts = np.array([len(batches[length]) for length in self.shapes])
    if jax.process_count() > 1:
      # All hosts run the program of a length as often as the busiest must.
      counts = multihost_utils.process_allgather(counts).max(axis=0)
    started = []
    for length, count in zip(self.shapes, counts.tolist()):
      for number in range(count):
        mine = batches[length][number : number + 1]
        positions = mine[0] if mine else np.empty(0, int)
        batch = [tokens[i] for i in positions]
        padded = tokenizer_lib.pad(batch, self.rows, length)
        embed = self._encoder.encode_rows(*padded)
        embed.copy_to_host_async()
        started.append((positions, embed))
    return lengths, started

  def finish(self, lengths, started) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings, bfloat16 [n, L, D], and mask, bool [n, L]."""
    size = (len(lengths), self.text.max_length, self.text.embed_dim)
    every = np.zeros(size, codec.DTYPE)
    for positions, embed in started:
      if not len(positions):
        continue
      rows = sharding.take_batch(embed, self.mesh)
      for position, row in zip(positions, rows, strict=False):
        real = row[: lengths[position]]
        every[position, : len(real)] = codec.stored(
          real, self.text.stored_dtype
        )
    return every, np.arange(size[1])[None] < lengths[:, None]

  def lookup(self, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings, bfloat16 [n, L, D], and mask, bool [n, L], now."""
    return self.finish(*self.start(captions))


class Ahead:
  """A loader's batches with their embeddings, computed ahead.

  Stands in for the loader: what it reads ahead is not counted as given.

  Attributes:
    wait_seconds: how long `next` has waited for pictures, in all.
  """

  def __init__(self, loader, online: Online):
    """Wraps a loader that has no store; it may be wound to a step first."""
    self._loader = loader
    self._online = online
    self._step = loader.state()['step']
    self._ready, self._started = [], None

  @property
  def wait_seconds(self) -> float:
    """How long reading has been waited for, in all."""
    return self._loader.wait_seconds

  @property
  def tally(self):
    """Of the loader, which may be a window ahead."""
    return self._loader.tally

  def state(self) -> dict:
    """Returns the position after the last batch given."""
    return self._loader.state(self._step)

  def __iter__(self):
    return self

  def __next__(self) -> dict:
    """Returns the next batch, with `text_embed` and `text_mask`."""
    if not self._ready:
      window = self._started or self._start()
      self._started = self._start()
      self._ready = self._finish(*window)
    self._step += 1
    return self._ready.pop(0)

  def _start(self):
    first = next(self._loader)
    batches = [first]
    wanted = math.ceil(_BATCHES * self._online.rows / len(first['caption']))
    fit = max(1, _WINDOW_BYTES // first['image'].nbytes)
    while len(batches) < min(wanted, fit):
      batches.append(next(self._loader))
    captions = [caption for batch in batches for caption in batch['caption']]
    return batches, self._online.start(captions)

  def _finish(self, batches, started):
    embed, mask = self._online.finish(*started)
    begin = 0
    for batch in batches:
      rows = slice(begin, begin + len(batch['caption']))
      batch['text_embed'], batch['text_mask'] = embed[rows], mask[rows]
      begin = rows.stop
    return batches
