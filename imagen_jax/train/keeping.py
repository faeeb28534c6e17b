"""Which checkpoints are kept: the newest, and others for later."""

import math

from orbax.checkpoint import checkpoint_managers

from imagen_jax import config


def options(cfg: config.Config | None) -> dict:
  """What Orbax is told of the checkpoints that are kept; None keeps all.

  After each save it asks what to keep; one that any part keeps is kept.
  """
  if cfg is None:
    return {}
  keep = cfg.keep
  parts = [checkpoint_managers.LatestN(cfg.train.keep_checkpoints)]
  if keep.every_steps:
    parts.append(checkpoint_managers.EveryNSteps(keep.every_steps))
  if keep.every_hours:
    seconds = max(1, round(3600 * keep.every_hours))
    parts.append(checkpoint_managers.EveryNSeconds(seconds))
  if keep.best:
    parts.append(
      checkpoint_managers.BestN(
        get_metric_fn=lambda metrics: metrics[keep.metric],
        # Orbax keeps the last ones of the order.
        reverse=keep.mode == 'min',
        n=keep.best,
        # Of before there was a metric; the newest are kept anyway.
        keep_checkpoints_without_metrics=False,
      )
    )
  best = {}
  if keep.best:
    # So that it writes the metric down.
    best = {'best_fn': lambda metrics: metrics[keep.metric]}
  any_of = checkpoint_managers.AnyPreservationPolicy(parts)
  return {'preservation_policy': any_of, **best}


def judged(
  values: dict[str, float], keep: config.KeepConfig
) -> dict[str, float] | None:
  """What a checkpoint is judged by, of a line of metrics; None for nothing.

  Args:
    values: the line.
    keep: says which.
  """
  value = values.get(keep.metric, math.nan) if keep.best else math.nan
  return {keep.metric: float(value)} if math.isfinite(value) else None
