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
