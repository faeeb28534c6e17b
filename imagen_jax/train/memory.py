"""How much of the devices' memory a run takes, as they tell."""

import jax

from imagen_jax.train import hosts

_GIB = 2**30
METRICS = {
  'hbm_gib': 'bytes_in_use',
  'hbm_peak_gib': 'peak_bytes_in_use',
  'hbm_limit_gib': 'bytes_limit',
}


def metrics(devices=None) -> dict[str, float]:
  """Memory of the device that has most of it in use, over all hosts.

  To be called on all hosts, at the same step.

  Args:
    devices: of this host; None takes those that there are.

  Returns:
    GiB in use, the most that were since the start, and what there are; nothing
    where the devices do not tell, as CPUs do not.
  """
  told = [each.memory_stats() for each in devices or jax.local_devices()]
  told = [each for each in told if each]
  found = hosts.largest(
    [
      max((each.get(name, 0) for each in told), default=0) / _GIB
      for name in METRICS.values()
    ]
  )
  return {name: value for name, value in zip(METRICS, found) if value}
