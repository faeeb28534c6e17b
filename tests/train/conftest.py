"""What the tests of training share."""

import compared
import pytest


@pytest.fixture(scope='session')
def runs():
  """The functions of `compared`, for tests to call."""
  return compared
