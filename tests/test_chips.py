"""Which chip a device is of, and how many chips devices are of."""

import types

import jax
import pytest

from imagen_jax import chips


def device(kind, number=0, **more):
  return types.SimpleNamespace(device_kind=kind, id=number, **more)


@pytest.mark.parametrize(
  'kind, name',
  [
    ('TPU v4', 'v4'),
    ('TPU v5 lite', 'v5e'),
    ('TPU v5', 'v5p'),
    ('TPU v5p', 'v5p'),
    ('TPU v6 lite', 'v6e'),
    ('TPU7x', 'tpu7x'),
  ],
)
def test_chips_by_the_names_of_their_devices(kind, name):
  assert chips.of_device(device(kind)) is chips.CHIPS[name]


@pytest.mark.parametrize('kind', ['TPU v9', 'NVIDIA H100 80GB HBM3'])
def test_what_is_not_known_has_no_figures(kind):
  assert chips.of_device(device(kind)) is None


@pytest.mark.parametrize(
  'name, figures',
  [
    # TFLOP/s, GiB, GB/s of memory, GB/s between chips, MHz.
    ('v4', (275, 32, 1228, 270, 1050)),
    ('v5e', (197, 16, 819, 200, 1500)),
    ('v5p', (459, 95, 2765, 600, 1750)),
    ('v6e', (918, 32, 1638, 400, 1750)),
    ('tpu7x', (1153.5, 96, 3690, 300, 2200)),
  ],
)
def test_figures_of_the_maker(name, figures):
  chip = chips.CHIPS[name]
  found = (
    chip.peak_flops / 1e12,
    chip.hbm_bytes / 2**30,
    chip.hbm_bandwidth / 1e9,
    chip.ici_bandwidth / 1e9,
    chip.clock / 1e6,
  )
  assert found == pytest.approx(figures)
  # A host's card of 200 Gbit/s, for four chips.
  assert chip.dcn_bandwidth == 200e9 / 8 / 4


def test_a_cpu_has_no_figures():
  assert chips.of_device(jax.devices()[0]) is None
  assert chips.count(jax.devices()) == len(jax.devices())


def test_cores_of_one_chip_are_one():
  cores = [
    device(
      'TPU7x',
      4 * slice_index + 2 * x + core,
      slice_index=slice_index,
      coords=[x, 0, 0],
    )
    for slice_index in (0, 1)
    for x in (0, 1)
    for core in (0, 1)
  ]
  assert chips.count(cores) == 4
