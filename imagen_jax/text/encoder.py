"""Captions to embeddings, jitted and sharded."""

import contextlib
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.text import encoders
from imagen_jax.text import identity
from imagen_jax.text import restore
from imagen_jax.text import tokenizer as tokenizer_lib

_ROWS = 64  # Most captions that `encode` computes at once.
_SHORTEST = 16  # Least length that it computes, of the powers of two.


class TextEncoder:
  """The frozen encoder of a config, restored.

  Attributes:
    text: the config.
    tokenizer: captions to tokens.
    params: the encoder's parameters, in the mesh's shardings.
    row_multiple: `encode_tokens` takes multiples of so many rows.
  """

  def __init__(self, text: config_lib.TextConfig, mesh=None):
    """Reads the vocabulary and restores the weights.

    Args:
      text: which encoder, and where it lies.
      mesh: from `sharding.make_mesh`; None computes on the default device.

    Raises:
      ValueError: where the checkpoint or vocabulary does not fit the encoder,
        or `text.embed_dim` or `text.max_length` does not.
    """
    entry = encoders.get(text.encoder)
    _check(text, entry)
    self.text = text
    self._mesh = mesh
    self.tokenizer = tokenizer_lib.load(text)
    dtype = jnp.dtype(text.dtype)
    module = encoders.build(entry, dtype)
    boxed = encoders.abstract_params(entry)
    abstract = sharding.unbox(boxed)
    places = jax.tree.map(lambda _: None, abstract)
    self.row_multiple, whole = 1, None
    if mesh is not None:
      places = sharding.param_shardings(boxed, mesh)
      whole = sharding.replicated(mesh)
      self.row_multiple = mesh.shape['data'] * mesh.shape['fsdp']
    self.params = restore.restore_encoder(
      text.checkpoint or entry.checkpoint,
      # Kernels are used in `dtype` alone: kept so, they take half the memory
      # in bfloat16, and give the same numbers.
      jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
          leaf.shape, dtype, sharding=place
        ),
        abstract,
        places,
        is_leaf=lambda node: node is None,
      ),
      name=text.encoder,
    )

    def apply(params, tokens, mask):
      if mesh is not None:
        # Products of shards and a sum would round in another way than the
        # products of whole kernels, which one device computes.
        params = jax.lax.with_sharding_constraint(
          params, sharding.without_fsdp(places)
        )
      embed = module.apply({'params': params}, tokens, mask)
      return jnp.where(mask[..., None], embed, 0)

    self._apply = jax.jit(apply, out_shardings=whole)
    if mesh is not None:
      rows = jax.sharding.NamedSharding(mesh, sharding.BATCH)
      self._apply_rows = jax.jit(apply, out_shardings=rows)

  def encode_tokens(self, tokens: np.ndarray, mask: np.ndarray) -> jax.Array:
    """Returns embeddings [B, L, D], zero where `mask` is False.

    Compiles anew for every shape. On several hosts each passes all rows.

    Args:
      tokens: int32 [B, L]; B is a multiple of `row_multiple`.
      mask: bool [B, L].
    """
    if self._mesh is not None:
      tokens, mask = self._put(tokens), self._put(mask)
    return self._run(self._apply, tokens, mask)

  def encode_rows(self, tokens: np.ndarray, mask: np.ndarray) -> jax.Array:
    """Returns what `encode_tokens` does, every host for rows of its own.

    The result is sharded over the mesh; `sharding.take_batch` gives a host its
    rows of it. Needs a mesh.

    Args:
      tokens: int32 [b, L], this host's rows, as many on each host.
      mask: bool [b, L].
    """
    tokens, mask = sharding.put_batch((tokens, mask), self._mesh)
    return self._run(self._apply_rows, tokens, mask)

  def _run(self, apply, tokens, mask):
    # Float32 means float32 on accelerators too, whose default is coarser.
    precision = 'highest' if self.text.dtype == 'float32' else 'default'
    context = contextlib.nullcontext()
    if self._mesh is not None:
      context = sharding.use_mesh(self._mesh)
    with context, jax.default_matmul_precision(precision):
      return apply(self.params, tokens, mask)

  def _put(self, rows):
    place = jax.sharding.NamedSharding(self._mesh, sharding.BATCH)
    return jax.make_array_from_callback(
      rows.shape, place, lambda index: rows[index]
    )

  def encode(self, captions: list[str]) -> structs.TextCond:
    """Returns embeddings [B, L, D] and mask [B, L]; L is `text.max_length`.

    Captions over that length are cut, with a warning that counts them.

    Raises:
      ValueError: for no captions at all, or an empty one.
    """
    if not captions:
      raise ValueError('no captions to encode; accepted: at least one')
    max_length = self.text.max_length
    tokens, num_cut = self.tokenizer.ragged(captions, max_length)
    if num_cut:
      logging.getLogger(__name__).warning(
        '%d of %d captions are longer than text.max_length (%d tokens) and '
        'were cut',
        num_cut,
        len(captions),
        max_length,
      )
    parts = [
      self._encode_part(tokens[i : i + _ROWS])
      for i in range(0, len(tokens), _ROWS)
    ]
    _, mask = tokenizer_lib.pad(tokens, len(tokens), max_length)
    embed = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    return structs.TextCond(embed=embed, mask=jnp.asarray(mask))

  def _encode_part(self, tokens):
    """Embeds at most `_ROWS` captions, at one of a few static shapes."""
    max_length = self.text.max_length
    rows = _round_up(len(tokens), 1)
    rows = -(-rows // self.row_multiple) * self.row_multiple
    longest = max(len(ids) for ids in tokens)
    length = min(_round_up(longest, _SHORTEST), max_length)
    padded, mask = tokenizer_lib.pad(tokens, rows, length)
    embed = self.encode_tokens(padded, mask)[: len(tokens)]
    return jnp.pad(embed, ((0, 0), (0, max_length - length), (0, 0)))

  @functools.cached_property
  def fingerprint(self) -> dict[str, str | int]:
    """What its embeddings depend on; stored with them (`identity.of`)."""
    return identity.of(self.text)


def _round_up(number, least):
  """Returns the least power of two from `least` on that holds `number`."""
  return max(least, 1 << (number - 1).bit_length())


def _check(text, entry):
  """Raises ValueError where the config's numbers are not the encoder's."""
  if text.embed_dim != entry.embed_dim:
    raise ValueError(
      f'text.embed_dim is {text.embed_dim}; accepted: {entry.embed_dim}, '
      f'the width of text.encoder {text.encoder!r}'
    )
  if entry.family == 'bert' and text.max_length > encoders.BERT_POSITIONS:
    raise ValueError(
      f'text.max_length is {text.max_length}; accepted: at most '
      f'{encoders.BERT_POSITIONS}, the positions of {text.encoder!r}'
    )
