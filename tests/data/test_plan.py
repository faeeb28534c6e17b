"""Rows of hosts: together they are the batch, however many hosts there are."""

import numpy as np
import pytest

from imagen_jax.data import order as order_lib
from imagen_jax.data import plan as plan_lib

BATCH = 128
ORDER = order_lib.Order(3, ('a', 'b'), (1.0, 2.0), (50, 70))
CHANGED = ORDER.changed(5 * BATCH, (3.0, 1.0))


def rows_of(host, hosts, spread):
  """Rows of a host, neighbours or not."""
  if spread:
    return range(host, BATCH, hosts)
  return range(host * BATCH // hosts, (host + 1) * BATCH // hosts)


def seated(order, rows, step):
  """{slot: (task, position, record, seed)} of some rows of a step."""
  plan = plan_lib.Plan(order, BATCH, rows)
  return {
    slot: (task, position, record, *seed)
    for task in range(len(order.names))
    for slot, position, record, seed in zip(
      *(part.tolist() for part in plan.seats(step, task))
    )
  }


@pytest.mark.parametrize('spread', [False, True])
@pytest.mark.parametrize('hosts', [2, 4, 64])
@pytest.mark.parametrize('order', [ORDER, CHANGED], ids=['', 'changed'])
def test_any_number_of_hosts_has_the_same_seats(order, hosts, spread):
  for step in (0, 4, 5, 10**6):
    found = {}
    for host in range(hosts):
      own = seated(order, rows_of(host, hosts, spread), step)
      assert len(own) == BATCH // hosts and not own.keys() & found.keys()
      found |= own
    assert found == seated(order, range(BATCH), step)
    slots = np.arange(step * BATCH, (step + 1) * BATCH)
    assert sorted(found) == slots.tolist()
