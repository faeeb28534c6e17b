"""What a run says of itself, besides metrics."""

import jax

from imagen_jax import sharding

# Share of the state that may lie whole on every device without a word: biases
# and norms do.
_FEW_COPIES = 0.1


def describe(config, mesh, state, start_step):
  """What is trained, on what, from where to where; a line."""
  count = sum(x.size for x in jax.tree.leaves(state.params))
  axes = ', '.join(f'{name} {size}' for name, size in mesh.shape.items())
  how = f'resuming from step {start_step}' if start_step else 'from step 0'
  return (
    f'{count:,} parameters, mesh ({axes}) on '
    f'{jax.process_count()} host(s), {how} of {config.train.num_steps:,}'
  )


def warn_of_copies(state, mesh):
  """A warning where much of the state is whole on every device, else ''.

  A mesh that shards no state was asked for as such, and is not warned of.
  """
  if mesh.shape['fsdp'] * mesh.shape['model'] == 1:
    return ''
  copies = sharding.whole_copies(state, mesh)
  size = sum(n for _, n in copies)
  share = size / sum(x.nbytes for x in jax.tree.leaves(state))
  if share <= _FEW_COPIES:
    return ''
  largest = ', '.join(f'{path} ({n:,} bytes)' for path, n in copies[:3])
  return (
    f'{share:.0%} of the state ({size:,} bytes) is whole on every device, '
    f'since mesh.fsdp and mesh.model do not divide it; the largest: {largest}'
  )


class Cut:
  """Tells of captions that are longer than they may be, as they double."""

  def __init__(self, store, online, max_length):
    """Takes an `EmbeddingStore`, or None and an `online.Online`."""
    self._store, self._online = store, online
    self._max_length = max_length
    self._told = 0

  def say(self, writer):
    """Tells `writer` where twice as many were cut as when it last did."""
    if self._store:
      manifest = self._store.manifest
      cut, every = manifest['num_cut'], manifest['num_captions']
      where = 'of text.store'
    else:
      cut, every = self._online.num_cut, self._online.num_captions
      where = 'that this host has encoded'
    if cut and cut >= 2 * self._told:
      writer.say(
        f'{cut} of {every} captions {where} were cut to text.max_length, '
        f'{self._max_length} tokens'
      )
      self._told = cut
