"""An average of any length, put together from a run's snapshots."""

import jax
import numpy as np

from imagen_jax.train import checkpoint
from imagen_jax.train import digest
from imagen_jax.train import power_ema

# Of a sum's largest factor: what no float32 shows need not be read.
_NOTHING = 1e-9


class Average:
  """The average of a length at a step, its arrays read by name.

  Use as a context manager.

  Args:
    workdir: of the run, of whose snapshots it is made.
    length: the average's.
    step: of the newest snapshot that counts, and of the average; None is that
      of the newest that there is.

  Attributes:
    said: by that snapshot.
    step: of the average.
    error: how far the weights over time are from the wished ones; see
      `power_ema.solve`.

  Raises:
    ValueError: where there is no such snapshot, or one is damaged.
  """

  def __init__(self, workdir: str, length: float, step: int | None = None):
    self._checkpointer = checkpoint.Checkpointer(
      workdir, create=False, folder=checkpoint.SNAPSHOTS
    )
    steps = self._checkpointer.steps()
    if not steps:
      raise ValueError(
        f'--workdir {workdir} has no snapshots in {checkpoint.SNAPSHOTS}/, of '
        'which --ema-length is made; accepted: a run with train.ema_lengths '
        'and train.ema_snapshot_every'
      )
    self.step = steps[-1] if step is None else step
    if self.step not in steps:
      near = sorted(steps, key=lambda other: abs(other - self.step))[:4]
      raise ValueError(
        f'--at-step is {step}, of which {workdir} has no snapshot; accepted: '
        f'steps of snapshots, such as {", ".join(map(str, sorted(near)))}'
      )
    self.said = self._checkpointer.said(self.step)
    lengths = self.said.config.train.ema_lengths
    times = [each for each in steps if each <= self.step]
    pairs = [(time, each) for time in times for each in lengths]
    factors, self.error = power_ema.solve(
      *zip(*pairs), step=self.step, length=length
    )
    self._names = [power_ema.name(each) for each in lengths]
    factors = factors.reshape(len(times), len(lengths))
    least = _NOTHING * abs(factors).max()
    self._factors = {
      time: row for time, row in zip(times, factors) if abs(row).max() > least
    }
    self._saids = {
      time: self._checkpointer.said(time) for time in self._factors
    }
    self._digests = {time: {} for time in self._factors}

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._checkpointer.__exit__(*exception)

  @property
  def num_snapshots(self) -> int:
    """Of how many snapshots it is made."""
    return len(self._factors)

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of each array, by 'a/b' name."""
    first = f'{self._names[0]}/'
    return {
      name.removeprefix(first): jax.ShapeDtypeStruct(leaf.shape, np.float32)
      for name, leaf in self._checkpointer.shapes(self.step, 'averages').items()
      if name.startswith(first)
    }

  def read(self, names: list[str]) -> dict[str, np.ndarray]:
    """Some of its arrays, float32; summed in float64."""
    total = dict.fromkeys(names, 0.0)
    for time, row in self._factors.items():
      wanted = [f'{length}/{name}' for length in self._names for name in names]
      found = self._checkpointer.restore_some(time, 'averages', wanted)
      self._digests[time] |= digest.of_arrays(found)
      for length, factor in zip(self._names, row):
        for name in names:
          array = found[f'{length}/{name}']
          total[name] = total[name] + factor * array.astype(np.float64)
    return {name: array.astype(np.float32) for name, array in total.items()}

  def check(self):
    """Raises DamagedError unless all that was read is what was saved."""
    for time, found in self._digests.items():
      self._saids[time].check({'averages': digest.joined(found)})
