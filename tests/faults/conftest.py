"""What both campaigns of faults are given."""

import fault_campaign
import pytest


@pytest.fixture
def disk(tmp_path):
  """A small disk of the runs' own."""
  found = fault_campaign.Disk(tmp_path / 'disk')
  yield found
  found.close()
