"""The work of a training step, and its share of what the chips could do."""

from concurrent import futures
import dataclasses

import jax

from imagen_jax import chips
from imagen_jax import config as config_lib
from imagen_jax import flops
from imagen_jax import sharding
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib


def model_flops(config: config_lib.Config) -> int:
  """Operations of the products of one image's training step.

  What rematerialisation does again is not counted.
  """
  stage = config.stage
  unet = dataclasses.replace(stage.unet, remat=False, scan=(False,))
  stage = dataclasses.replace(stage, unet=unet)
  plain = dataclasses.replace(config, stage=stage)
  keys = step_lib.step_keys(0, 0)
  loss = lambda params, batch: step_lib.loss_fn(params, batch, keys, plain)[0]
  params = sharding.unbox(state_lib.abstract_params(plain))
  jaxpr = jax.make_jaxpr(jax.grad(loss))(
    params, state_lib.abstract_batch(plain, 1)
  )
  return flops.products(jaxpr.jaxpr).total()


def mfu(flops: float, seconds: float, chip: chips.Chip) -> float:
  """Share of the chip's peak that `flops` a device in `seconds` are."""
  return flops / seconds / chip.peak_flops


class Meter:
  """Tells a run's rates, as what its chips do and as what they could.

  The operations of a step are counted by a thread, beside the compiler's work:
  to trace a network of the paper takes a while. On a CPU, or a chip that is not
  in `chips.CHIPS`, there is no MFU, and nothing is counted.

  Args:
    config: the run.
    devices: all that it runs on.
    enabled: whether this host writes metrics.
  """

  def __init__(self, config: config_lib.Config, devices, *, enabled=True):
    self._chip, self._count = chips.of_device(devices[0]), len(devices)
    self._chips = chips.count(devices)
    self._flops = None
    if self._chip and enabled:
      pool = futures.ThreadPoolExecutor(1)
      self._flops = pool.submit(model_flops, config)
      pool.shutdown(wait=False)

  def metrics(self, images_per_second: float) -> dict[str, float]:
    """`images_per_second_per_chip`, and `mfu` once a step is counted."""
    found = {'images_per_second_per_chip': images_per_second / self._chips}
    if self._flops and self._flops.done():
      rate = self._flops.result() * images_per_second / self._count
      found['mfu'] = mfu(rate, 1.0, self._chip)
    return found
