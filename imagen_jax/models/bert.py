"""The BERT encoder: post-norm layers, learned positions, exact GELU.

Its result is the last hidden state of every token. The pooler is left out:
Imagen attends over tokens.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

_MASKED = -1e10  # Finite: a text without real tokens yields numbers, not NaN.


def _init(scale, axes):
  return nn.with_logical_partitioning(nn.initializers.normal(scale), axes)


class Dense(nn.Module):
  """x kernel + bias, [..., fan_in] to [..., fan_out]."""

  features: int
  axes: tuple[str, str]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    fan_in = x.shape[-1]
    kernel = self.param(
      'kernel',
      _init(fan_in**-0.5, self.axes),
      (fan_in, self.features),
      jnp.float32,
    )
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, (self.axes[1],))
    bias = self.param('bias', zeros, (self.features,), jnp.float32)
    # Sums in float32: what accelerators do in any case, and on CPUs with
    # bfloat16 products (AVX-512) nearly three times as fast.
    y = jnp.matmul(
      x, kernel.astype(self.dtype), preferred_element_type=jnp.float32
    )
    return (y + jnp.broadcast_to(bias, y.shape)).astype(self.dtype)


class Norm(nn.Module):
  """Layer norm over the last axis, with statistics in float32."""

  epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    def vector(name, init):
      init = nn.with_logical_partitioning(init, ('embed',))
      return self.param(name, init, x.shape[-1:], jnp.float32)

    scale = vector('scale', nn.initializers.ones)
    bias = vector('bias', nn.initializers.zeros)
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(x * x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + self.epsilon)
    x = x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(bias, x.shape)
    return x.astype(self.dtype)


class Table(nn.Module):
  """Rows of a learned table."""

  rows: int
  features: int
  axes: tuple[str | None, str]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, index):
    table = self.param(
      'embedding',
      _init(0.02, self.axes),
      (self.rows, self.features),
      jnp.float32,
    )
    return table[index].astype(self.dtype)


class Attention(nn.Module):
  """Self-attention over tokens: [B, L, E] to [B, L, E]."""

  num_heads: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, masked):
    batch, length, embed_dim = x.shape
    head_dim = embed_dim // self.num_heads

    def project(name):
      y = Dense(embed_dim, ('embed', 'heads'), self.dtype, name=name)(x)
      y = y.reshape(batch, length, self.num_heads, head_dim)
      # Heads outside of tokens: a CPU turns each once (as in T5's attention).
      return y.transpose(0, 2, 1, 3)

    logits = jnp.einsum(
      'bnqk,bnlk->bnql',
      project('query') * head_dim**-0.5,
      project('key'),
      preferred_element_type=jnp.float32,
    )
    weights = nn.softmax(logits + masked).astype(self.dtype)
    y = jnp.einsum(
      'bnql,bnlk->bnqk',
      weights,
      project('value'),
      preferred_element_type=jnp.float32,
    ).astype(self.dtype)
    y = y.transpose(0, 2, 1, 3)
    out = Dense(embed_dim, ('heads', 'embed'), self.dtype, name='out')
    return out(y.reshape(batch, length, embed_dim))


class Layer(nn.Module):
  """Attention and MLP, each added to its input and then normed."""

  num_heads: int
  mlp_dim: int
  epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, masked):
    attention = Attention(self.num_heads, self.dtype, name='attention')
    norm = Norm(self.epsilon, self.dtype, name='attention_norm')
    x = norm(x + attention(x, masked))
    wi = Dense(self.mlp_dim, ('embed', 'mlp'), self.dtype, name='wi')
    wo = Dense(x.shape[-1], ('mlp', 'embed'), self.dtype, name='wo')
    h = wo(nn.gelu(wi(x), approximate=False))
    x = Norm(self.epsilon, self.dtype, name='mlp_norm')(x + h)
    return nn.with_logical_constraint(x, ('batch', 'text', None))


class BertEncoder(nn.Module):
  """Maps tokens, int32 [B, L], and mask, bool [B, L], to [B, L, D].

  Rows of the result where the mask is False are finite and mean nothing. Every
  token is of segment 0.

  Attributes:
    vocab_size: rows of the token table.
    embed_dim: width of the result.
    num_layers: attention and MLP pairs.
    num_heads: of an attention; a divisor of `embed_dim`.
    mlp_dim: hidden width.
    max_positions: longest text.
    epsilon: of the norms.
    dtype: type of activations and products. Norms' statistics and the softmax
      are float32 whatever it is.
  """

  vocab_size: int
  embed_dim: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  max_positions: int = 512
  epsilon: float = 1e-12
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens, mask):
    length = tokens.shape[1]

    def table(name, rows, axis):
      axes = (axis, 'embed')
      return Table(rows, self.embed_dim, axes, self.dtype, name=name)

    x = table('token_embedder', self.vocab_size, 'vocab')(tokens)
    position = jnp.arange(length)
    x = x + table('position_embedder', self.max_positions, None)(position)[None]
    x = x + table('segment_embedder', 2, None)(jnp.zeros(1, jnp.int32))[None]
    x = Norm(self.epsilon, self.dtype, name='embed_norm')(x)
    masked = jnp.where(mask, 0.0, _MASKED)[:, None, None, :]  # [B, 1, 1, L]
    for i in range(self.num_layers):
      layer = Layer(
        self.num_heads,
        self.mlp_dim,
        self.epsilon,
        self.dtype,
        name=f'layers_{i}',
      )
      x = layer(x, masked)
    return x
