"""Layers that both U-Nets are built of."""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.models import attention

_zeros = nn.initializers.zeros_init()
_lecun = nn.initializers.lecun_normal()


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(kernel, axes):
  """A kernel made whole over 'embed'; its gradient goes to where it lay.

  JAX's own gradient of a constraint has the same constraint: whole on every
  device, of which each then takes its share. This one is sent as shares.
  """
  return nn.with_logical_constraint(kernel, _whole(axes))


def _whole(axes):
  return tuple(None if axis == 'embed' else axis for axis in axes)


def _gathered_forward(kernel, axes):
  return _gathered(kernel, axes), None


def _gathered_backward(axes, kept, gradient):
  del kept
  return (nn.with_logical_constraint(gradient, axes),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _with_gathered_kernel(product, *axes):
  """`product(x, kernel, ...)`, of a kernel first made whole over 'embed'.

  That is the gather of FSDP. Left to choose, XLA (of JAX 0.10.2) computes
  wrong gradients of `x` on some meshes that split batch, channels in and
  channels out over three axes, such as (2, 2, 2).

  Args:
    product: a convolution or `lax.dot_general`.
    *axes: logical names of the kernel's axes.
  """

  def gather(x, kernel, *args, **options):
    rules = dict(nn.get_logical_axis_rules())
    # Of split images XLA sums gradients that are sent as shares wrongly (seen
    # on a (2, 2, 2) mesh of CPUs, by 4%); whole ones it sums right.
    if rules.get('height') or rules.get('width'):
      kernel = nn.with_logical_constraint(kernel, _whole(axes))
    elif rules:  # Without a mesh there is nothing to gather, and no rules.
      kernel = _gathered(kernel, axes)
    return product(x, kernel, *args, **options)

  return gather


def conv(dim, *, stride=1, zero=False, dtype, name, size=3):
  """A square convolution to `dim` channels, kernel sharded by name."""
  init = _zeros if zero else _lecun
  axes = (None, None, 'embed', 'conv_out')
  return nn.Conv(
    dim,
    (size, size),
    strides=(stride, stride),
    kernel_init=nn.with_logical_partitioning(init, axes),
    dtype=dtype,
    conv_general_dilated=_with_gathered_kernel(
      jax.lax.conv_general_dilated, *axes
    ),
    name=name,
  )


def dense(dim, *, zero=False, use_bias=True, dtype, name, out='conv_out'):
  """A dense layer to `dim` channels, kernel sharded by name."""
  init = _zeros if zero else _lecun
  axes = ('embed', out)
  return nn.Dense(
    dim,
    use_bias=use_bias,
    kernel_init=nn.with_logical_partitioning(init, axes),
    dtype=dtype,
    dot_general=_with_gathered_kernel(jax.lax.dot_general, *axes),
    name=name,
  )


def _num_shards(name):
  """Into how many parts the rules split the axis `name` of an activation."""
  axis = dict(nn.get_logical_axis_rules()).get(name)
  return jax.sharding.get_abstract_mesh().shape[axis] if axis else 1


def constrain(x):
  """An activation [B, H, W, C], laid out on the mesh by the rules.

  Rows and columns stay whole where they do not divide, as at a coarse level.
  """
  axes = [
    None if x.shape[i] % _num_shards(name) else name
    for i, name in ((1, 'height'), (2, 'width'))
  ]
  return nn.with_logical_constraint(x, ('batch', *axes, 'channels'))


def splits_images():
  """Whether the rules split activations by rows or columns of the image."""
  return _num_shards('height') * _num_shards('width') > 1


def constrain_split(x):
  """`constrain`, where images are split; without need, nothing is asked."""
  return constrain(x) if splits_images() else x


def whole(x, *axes):
  """x with `axes` on every device whole, where images are split."""
  if not splits_images():
    return x
  free = jax.P.UNCONSTRAINED
  spec = [None if axis in axes else free for axis in range(x.ndim)]
  return jax.lax.with_sharding_constraint(x, jax.P(*spec))


def depth_to_space(x, stride):
  """[B, H, W, C stride^2] to [B, H stride, W stride, C]."""
  batch, height, width, _ = x.shape
  x = x.reshape(batch, height, width, stride, stride, -1)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height * stride, width * stride, -1)


def downsample(x):
  """[B, H, W, C] to half the size by 2x2 means."""
  return nn.avg_pool(x, (2, 2), (2, 2))


def upsample(x):
  """[B, H, W, C] to twice the size by repetition."""
  return x.repeat(2, axis=1).repeat(2, axis=2)


def with_coordinates(x):
  """[B, H, W, C] with row and column, from -1 to 1, as two more channels."""
  batch, height, width, _ = x.shape
  rows, columns = jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width)
  places = jnp.stack(jnp.meshgrid(rows, columns, indexing='ij'), axis=-1)
  places = jnp.broadcast_to(places, (batch, height, width, 2))
  return jnp.concatenate([x, places.astype(x.dtype)], axis=-1)


def embed_logsnr(logsnr, dim):
  """Sinusoidal embedding of a log-SNR [B], [B, dim], float32; `dim` even.

  The log-SNR is first mapped to [0, 1] by 2/pi arctan(exp(-logsnr / 2)), which
  is the time of the cosine schedule; the paper does not state its embedding.
  """
  u = 2 / math.pi * jnp.arctan(jnp.exp(-0.5 * jnp.clip(logsnr, -20, 20)))
  half = dim // 2
  freqs = jnp.exp(-math.log(10_000) * jnp.arange(half) / (half - 1))
  angles = 1000 * u[:, None] * freqs[None]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class LevelEmbedding(nn.Module):
  """A noise level's embedding: sinusoids, then two dense layers.

  Maps logsnr [B] to [B, dim].
  """

  dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, logsnr):
    h = embed_logsnr(logsnr, 2 * max(self.dim // 8, 16)).astype(self.dtype)
    h = dense(self.dim, dtype=self.dtype, name='hidden')(h)
    return dense(self.dim, dtype=self.dtype, name='out')(nn.swish(h))


class TextPositions(nn.Module):
  """Normalised tokens [B, L, D], each with a learned vector of its place."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, embed):
    table = self.param(
      'table', nn.initializers.normal(0.5), embed.shape[1:], jnp.float32
    )
    tokens = nn.LayerNorm(dtype=self.dtype, name='norm')(embed)
    return tokens + table.astype(self.dtype)[None]


class TextPool(nn.Module):
  """Attention-pooled text (paper, section 2.5).

  The query is the mean token plus a learned vector. LayerNorm before and
  after, which the paper found to help. Maps embed [B, L, D] and mask [B, L]
  to [B, dim]; every caption without a real token gives the same vector.
  """

  dim: int
  head_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, embed, mask):
    heads = max(self.dim // self.head_dim, 1)
    width = heads * self.head_dim
    tokens = nn.LayerNorm(dtype=self.dtype, name='norm_in')(embed)
    real = mask[..., None].astype(self.dtype)
    mean = (tokens * real).sum(1, keepdims=True)
    mean = mean / jnp.maximum(real.sum(1, keepdims=True), 1)
    offset = self.param(
      'query', nn.initializers.normal(0.02), (tokens.shape[-1],)
    ).astype(self.dtype)
    split = lambda x: x.reshape(*x.shape[:-1], heads, self.head_dim)
    project = functools.partial(
      dense, width, dtype=self.dtype, use_bias=False, out='heads'
    )
    pooled = jax.nn.dot_product_attention(
      split(project(name='to_query')(mean + offset[None, None])),
      split(project(name='to_key')(tokens)),
      split(project(name='to_value')(tokens)),
      mask=mask[:, None, None, :],
    )
    pooled = pooled.reshape(-1, width) * mask.any(1)[:, None].astype(self.dtype)
    pooled = nn.LayerNorm(dtype=self.dtype, name='norm_out')(pooled)
    return dense(self.dim, dtype=self.dtype, name='out')(pooled)


def residual_sum(x, h, scale, shortcut_scale):
  """(shortcut_scale x + h) scale; a factor of 1 is left out."""
  x = x if shortcut_scale == 1 else x * shortcut_scale
  return (x + h) * scale


class ResBlock(nn.Module):
  """Two 3x3 convolutions modulated by an embedding (FiLM).

  Maps x [B, H, W, C] and emb [B, E] to [B, H, W, dim]; with `resample` 'down'
  or 'up', the BigGAN block that changes the size inside, to half or twice.

  Attributes:
    dim: channels out.
    num_groups: of the GroupNorms.
    scale: of the residual sum: 2**-0.5 in the Efficient U-Net, 1 in the base.
    resample: None, 'down' or 'up'.
    dropout: rate before the second convolution.
    shortcut_scale: of the shortcut alone, before the sum.
    shortcut: 'when_needed' is the identity where the width stays, 'always' a
      1x1 convolution.
  """

  dim: int
  num_groups: int
  scale: float
  dtype: jnp.dtype
  resample: str | None = None
  dropout: float = 0.0
  shortcut_scale: float = 1.0
  shortcut: str = 'when_needed'

  @nn.compact
  def __call__(self, x, emb, deterministic=True):
    norm = functools.partial(nn.GroupNorm, self.num_groups, dtype=self.dtype)
    resize = {None: lambda y: y, 'down': downsample, 'up': upsample}
    resize = resize[self.resample]

    h = resize(nn.swish(norm(name='norm_in')(x)))
    h = conv(self.dim, dtype=self.dtype, name='conv_in')(h)
    modulation = dense(2 * self.dim, dtype=self.dtype, name='modulation')
    scale, shift = jnp.split(modulation(nn.swish(emb))[:, None, None], 2, -1)
    h = nn.swish(norm(name='norm_out')(h) * (1 + scale) + shift)
    h = nn.Dropout(self.dropout)(h, deterministic)
    h = conv(self.dim, zero=True, dtype=self.dtype, name='conv_out')(h)
    x = resize(x)
    if x.shape[-1] != self.dim or self.shortcut == 'always':
      x = dense(self.dim, dtype=self.dtype, name='skip')(x)
    return constrain(residual_sum(x, h, self.scale, self.shortcut_scale))


class Attention(nn.Module):
  """Attention of pixels over pixels, text tokens, or both.

  With both, text keys and values are concatenated with the pixels' own, under
  one softmax (paper, appendix D.3.1). Text is normalised first (section 2.5).
  Maps x [B, H, W, C], embed [B, L, D] and mask [B, L] to [B, H, W, C].

  Attributes:
    over_pixels: attend over pixels.
    over_text: attend over tokens.
    head_dim: channels a head.
    expansion: width of all heads joined over C.
    num_groups: of the GroupNorm.
    scale: of the residual sum.
    shortcut_scale: of the shortcut alone, before the sum.
  """

  over_pixels: bool
  over_text: bool
  head_dim: int
  expansion: int
  num_groups: int
  scale: float
  dtype: jnp.dtype
  shortcut_scale: float = 1.0

  @nn.compact
  def __call__(self, x, embed, mask):
    batch, height, width, channels = x.shape
    joined = channels * self.expansion
    heads = joined // self.head_dim
    project = functools.partial(dense, dtype=self.dtype, out='heads')
    split = lambda y: y.reshape(batch, -1, heads, self.head_dim)

    h = nn.GroupNorm(self.num_groups, dtype=self.dtype, name='norm')(x)
    h = h.reshape(batch, height * width, channels)
    query = split(project(joined, name='query')(h))
    keys, values, masks = [], [], []
    if self.over_pixels:
      keys.append(split(project(joined, name='key')(h)))
      values.append(split(project(joined, name='value')(h)))
      masks.append(jnp.ones((batch, height * width), bool))
    if self.over_text:
      tokens = nn.LayerNorm(dtype=self.dtype, name='text_norm')(embed)
      keys.append(split(project(joined, name='text_key')(tokens)))
      values.append(split(project(joined, name='text_value')(tokens)))
      masks.append(mask)
    mask = jnp.concatenate(masks, axis=1)
    # Each pixel sees all of the image, whatever part of it lies where.
    h = attention.attend(
      query,
      jnp.concatenate([whole(key, 1) for key in keys], axis=1),
      jnp.concatenate([whole(value, 1) for value in values], axis=1),
      mask[:, None, None, :],
    )
    # With nothing to attend to, a softmax averages what is masked.
    h = h.reshape(batch, height, width, joined)
    h = h * mask.any(1)[:, None, None, None].astype(self.dtype)
    h = dense(channels, zero=True, dtype=self.dtype, name='out')(h)
    return constrain(residual_sum(x, h, self.scale, self.shortcut_scale))
