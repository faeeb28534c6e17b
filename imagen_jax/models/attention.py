"""Attention's core, with a backward pass that the TPU's compiler does well."""

import jax
import jax.numpy as jnp

# As `jax.nn.dot_product_attention` has it: finite, so that where all is masked
# a softmax averages and is not NaN.
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


@jax.custom_vjp
def attend(query, key, value, mask):
  """What `jax.nn.dot_product_attention` computes, of values and gradients.

  Differentiated by JAX, the gradient of the logits comes of two arrays of
  their size, which XLA reads again for each of the two products that follow.
  Here the row's part of it comes of the output (as in FlashAttention,
  arXiv:2205.14135), so that it is made once, next to the product it comes of,
  and kept as narrow as the keys. What that gains is in docs/performance.md.

  Args:
    query: [B, T, N, K].
    key: [B, S, N, K].
    value: [B, S, N, K].
    mask: what is attended to, bool, broadcast to [B, N, T, S].

  Returns:
    [B, T, N, K]. A row that attends to nothing is the mean of all values.
  """
  weights = _weights(query, key, mask)
  # Where nothing is kept for a backward pass XLA for CPUs computes all of this
  # as one, in a third of the time if the weights are the product's left side.
  # The TPU's would take 4% longer so.
  return jax.lax.platform_dependent(
    weights,
    value,
    cpu=lambda w, v: jnp.einsum('bnts,bsnk->bntk', w, v).swapaxes(1, 2),
    default=_mean,
  )


def _weights(query, key, mask):
  """The softmax of what is attended to, [B, N, T, S]."""
  logits = jnp.einsum(
    'btnk,bsnk->bnts', query, key, preferred_element_type=jnp.float32
  )
  logits = jnp.where(mask, logits * query.shape[-1] ** -0.5, _MASKED)
  return jax.nn.softmax(logits, axis=-1).astype(query.dtype)


def _mean(weights, value):
  return jnp.einsum('bnts,bsnk->btnk', weights, value)


def _forward(query, key, value, mask):
  weights = _weights(query, key, mask)
  out = _mean(weights, value)
  return out, (query, key, value, mask, weights, out)


def _backward(kept, d_out):
  query, key, value, mask, weights, out = kept
  d_value = jnp.einsum('bnts,btnk->bsnk', weights, d_out)
  d_weights = jnp.einsum(
    'btnk,bsnk->bnts', d_out, value, preferred_element_type=jnp.float32
  )
  # The sum over a row of weights times their gradients.
  row = jnp.einsum(
    'btnk,btnk->bnt', d_out, out, preferred_element_type=jnp.float32
  )
  d_logits = weights * (d_weights - row[..., None]) * query.shape[-1] ** -0.5
  # Where all is masked, weights are not 0, and do not depend on what is.
  d_logits = jnp.where(mask, d_logits, 0)
  # Kept as it is: XLA would make it twice, within both products.
  d_logits = jax.lax.optimization_barrier(d_logits.astype(query.dtype))
  d_query = jnp.einsum('bnts,bsnk->btnk', d_logits, key)
  d_key = jnp.einsum('bnts,btnk->bsnk', d_logits, query)
  return d_query, d_key, d_value, None


attend.defvjp(_forward, _backward)
