"""The work of a step, and what share of a chip's peak it is."""

import jax
import pytest

from imagen_jax import chips
from imagen_jax import config as config_lib
from imagen_jax import flops
from imagen_jax import sharding
from imagen_jax.train import mfu
from imagen_jax.train import state as state_lib


def test_flops_leave_out_what_is_done_twice(repo):
  """Of one image, with blocks rematerialised and scanned or not."""
  config = config_lib.load(str(repo / 'configs/tiny_base.py'))
  sizes = set()
  for settings in (
    ['stage.unet.remat=false'],
    ['stage.unet.remat=true', 'stage.unet.scan=[true]'],
  ):
    sizes.add(mfu.model_flops(config_lib.override(config, settings)))
  (size,) = sizes
  network = state_lib.make_network(config.stage)
  params = sharding.unbox(state_lib.abstract_params(config))
  jaxpr = jax.make_jaxpr(lambda p, x: network.apply({'params': p}, *x))(
    params, state_lib.example_inputs(config)
  )
  forward = flops.products(jaxpr.jaxpr).total()
  # Less than three times the forward pass by the gradient of its input.
  assert 2.9 * forward < size <= 3 * forward


def test_a_share_of_the_peak():
  chip = chips.CHIPS['v5p']
  assert mfu.mfu(chip.peak_flops, 2.0, chip) == 0.5


def test_a_meter_tells_the_share_of_all_devices(tiny, monkeypatch):
  config = config_lib.load(tiny)
  devices = jax.devices()
  with monkeypatch.context() as patch:
    patch.setattr(chips, 'of_device', lambda device: chips.CHIPS['v5e'])
    patch.setattr(mfu, 'model_flops', lambda config: 10**12)
    meter = mfu.Meter(config, devices)
    meter._flops.result()
  peak = len(devices) * chips.CHIPS['v5e'].peak_flops
  rate = peak / 10**12 / 4  # Images a second that take a quarter of it.
  assert meter.metrics(rate) == {
    'images_per_second_per_chip': rate / len(devices),
    'mfu': pytest.approx(0.25),
  }


def test_no_mfu_is_made_up(tiny, monkeypatch):
  """On a CPU nothing is counted; nor by hosts that write no metrics."""
  config = config_lib.load(tiny)
  monkeypatch.setattr(mfu, 'model_flops', None)
  meter = mfu.Meter(config, jax.devices())
  assert meter.metrics(16.0) == {
    'images_per_second_per_chip': 16.0 / len(jax.devices())
  }
  monkeypatch.setattr(chips, 'of_device', lambda device: chips.CHIPS['v5e'])
  meter = mfu.Meter(config, jax.devices(), enabled=False)
  assert 'mfu' not in meter.metrics(16.0)
