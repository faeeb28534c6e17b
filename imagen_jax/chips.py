"""The chips that training runs on: what each can do, by its maker's figures."""

import dataclasses

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one JAX device of a kind can do, by its maker's published figures.

  Attributes:
    peak_flops: bfloat16 operations a second.
    hbm_bytes: of memory.
    hbm_bandwidth: bytes a second of that memory.
    ici_bandwidth: bytes a second to the other chips, one way, all links.
    dcn_bandwidth: bytes a second to other slices, one way: a host's network
      card, shared by its devices.
    clock: cycles a second, in which the compiler's estimates are.
    dimensions: of its torus.
    config_name: that libtpu knows the device by; None for its own default.
  """

  peak_flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  dcn_bandwidth: float
  clock: float
  dimensions: int
  config_name: str | None = None


# A device of v4 is a chip, whose two cores work as one ('megacore'); of tpu7x
# it is one of a chip's two cores. The clocks of v6e and tpu7x are inferred from
# their peaks. A host of four chips is taken to have a card of 200 Gbit/s, one
# of eight devices 400.
CHIPS = {
  'v4': Chip(275e12, 32 * _GIB, 1.228e12, 270e9, 6.25e9, 1.05e9, 3, 'megacore'),
  'v5e': Chip(197e12, 16 * _GIB, 0.819e12, 200e9, 6.25e9, 1.5e9, 2),
  'v5p': Chip(459e12, 95 * _GIB, 2.765e12, 600e9, 6.25e9, 1.75e9, 3),
  'v6e': Chip(918e12, 32 * _GIB, 1.638e12, 400e9, 6.25e9, 1.75e9, 2),
  'tpu7x': Chip(1153.5e12, 96 * _GIB, 3.69e12, 300e9, 6.25e9, 2.2e9, 3),
}

# As JAX names their devices, of all versions of it.
_OF_KIND = {
  'TPU v4': 'v4',
  'TPU v5 lite': 'v5e',
  'TPU v5e': 'v5e',
  'TPU v5': 'v5p',
  'TPU v5p': 'v5p',
  'TPU v6 lite': 'v6e',
  'TPU v6e': 'v6e',
  'TPU7x': 'tpu7x',
}


def of_device(device) -> Chip | None:
  """What a JAX device can do; None for a CPU, and for what is not known."""
  return CHIPS.get(_OF_KIND.get(device.device_kind))


def count(devices) -> int:
  """Chips that devices are of: cores that are devices apart may share one."""
  places = {
    (getattr(each, 'slice_index', 0), tuple(each.coords))
    if getattr(each, 'coords', None) is not None
    else each.id
    for each in devices
  }
  return len(places)
