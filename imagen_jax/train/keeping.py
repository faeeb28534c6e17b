"""Which checkpoints are kept: the newest, and others for later."""

from collections.abc import Sequence
import math

from orbax.checkpoint import checkpoint_managers

from imagen_jax import config


class Best:
  """Keeps so many checkpoints whose metric was least, or most.

  Orbax's own policy goes by files of its own, which have no digest: where one
  is damaged no run can begin, and where `keep.metric` was another, no save can
  end. This one goes by what the position in the data says.

  Args:
    keep: says how many, and by what.
    judged: step -> what its checkpoint is judged by, as of `judged`; looked
      into whenever it is asked.
  """

  def __init__(self, keep: config.KeepConfig, judged: dict[int, dict | None]):
    self._keep, self._judged = keep, judged

  def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
    """Whether each of some checkpoints is kept, as Orbax asks."""
    del context
    values = {}
    for step in (info.step for info in checkpoints):
      # Of before there was a metric, or of another: the newest are kept anyway.
      value = (self._judged.get(step) or {}).get(self._keep.metric)
      if value is not None:
        values[step] = value
    order = sorted(values, key=values.get, reverse=self._keep.mode == 'min')
    best = order[-self._keep.best :]
    return [info.step in best for info in checkpoints]


def options(cfg: config.Config | None, judged: dict[int, dict | None]) -> dict:
  """What Orbax is told of the checkpoints that are kept; None keeps all.

  After each save it asks what to keep; one that any part keeps is kept.

  Args:
    cfg: of the run.
    judged: as for `Best`.
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
    parts.append(Best(keep, judged))
  return {
    'preservation_policy': checkpoint_managers.AnyPreservationPolicy(parts)
  }


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
