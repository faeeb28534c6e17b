"""What the tests of training share."""

import compared
import one_weight
import pytest

from imagen_jax.train import state as state_lib


@pytest.fixture(scope='session')
def runs():
  """The functions of `compared`, for tests to call."""
  return compared


@pytest.fixture
def network(monkeypatch):
  network = one_weight.Network()
  monkeypatch.setattr(state_lib, 'make_network', lambda stage: network)
  return network
