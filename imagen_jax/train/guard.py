"""Bad steps, as the step itself judges them, on the devices.

A step is bad whose loss or gradient is not finite, or so many times its running
median. What it would have done to the state is left undone within the step, so
that nothing is waited for; the host learns of it with the line of metrics.

What is remembered is a function of the steps, and saved with them: a resumed
run judges as the one it resumes would have.
"""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import config

# What is judged.
NAMES = ('loss', 'grad_norm')


@struct.dataclass
class Watch:
  """What is remembered of the steps of a window.

  Attributes:
    recent: the metrics `NAMES`, float32 [guard.window, 2], of each step at its
      number modulo the window; infinite where there is none, NaN where it was
      bad.
  """

  recent: jax.Array


def fresh(guard: config.GuardConfig) -> Watch | None:
  """Of a run that begins; None where steps are not judged."""
  if not guard.active:
    return None
  return Watch(jnp.full((guard.window, len(NAMES)), jnp.inf, jnp.float32))


def as_json(watch: Watch | None) -> list[list[float]] | None:
  """`watch` as JSON can hold it, exactly."""
  return None if watch is None else jax.device_get(watch.recent).tolist()


def from_json(
  kept: list[list[float]] | None, guard: config.GuardConfig, sharding
) -> Watch | None:
  """What `as_json` kept; a new one, where the window was another or none."""
  if not guard.active:
    return None
  recent = np.full((guard.window, len(NAMES)), np.inf, np.float32)
  if kept is not None and len(kept) == len(recent):
    recent = np.array(kept, np.float32)
  return Watch(jax.device_put(recent, sharding))


def judge(watch: Watch, metrics: dict, step, guard: config.GuardConfig):
  """Judges a step.

  Args:
    watch: before it.
    metrics: of it.
    step: finished updates before it, int32.
    guard: says what is a spike.

  Returns:
    Whether it is bad, what is remembered then, and how many of the window are
    bad if it is, or 0.
  """
  values = jnp.stack([metrics[name] for name in NAMES])
  bad = ~jnp.isfinite(values).all()
  if guard.spike_factor:
    known = jnp.isfinite(watch.recent)
    median = jnp.nanmedian(jnp.where(known, watch.recent, jnp.nan), axis=0)
    enough = 2 * known[:, 0].sum() >= guard.window
    bad |= enough & (values > guard.spike_factor * median).any()
  recent = watch.recent.at[step % guard.window].set(
    jnp.where(bad, jnp.nan, values)
  )
  count = jnp.isnan(recent[:, 0]).sum().astype(jnp.float32)
  return bad, Watch(recent), jnp.where(bad, count, 0)


def guarded(old, new, metrics: dict, guard: config.GuardConfig):
  """The state after a step that was judged, and its metrics, with 'bad'.

  Args:
    old: state before the step, whose `watch` judges.
    new: state after it.
    metrics: of the step.
    guard: of the run.
  """
  bad, watch, count = judge(old.watch, metrics, old.step, guard)
  if guard.policy != 'stop':
    kept = jax.tree.map(
      lambda before, after: jnp.where(bad, before, after),
      old.replace(watch=None),
      new.replace(watch=None),
    )
    new = kept.replace(step=new.step)
  return new.replace(watch=watch), metrics | {'bad': count}


def pass_over(state):
  """The state after a step whose batch is passed over: one step further."""
  watch = state.watch
  if watch is not None:
    slot = state.step % len(watch.recent)
    watch = Watch(watch.recent.at[slot].set(jnp.inf))
  return state.replace(step=state.step + 1, watch=watch)


def compile_pass(shardings):
  """`pass_over` jitted, the state donated and kept in its shardings."""
  return jax.jit(pass_over, donate_argnums=0, out_shardings=shardings)
