"""Names of topologies: what is refused, and how."""

import importlib.util

import pytest

from imagen_jax.precompile import topology


def test_a_name():
  found = topology.parse('v5p:4x4x8', 2)
  assert found == topology.Topology('v5p', (4, 4, 8), 2)
  assert found.name == 'v5p:4x4x8'
  assert found.chip.peak_flops == 459e12


def test_a_chip_of_v4_is_one_device():
  assert topology.parse('v4:2x2x1').chip.config_name == 'megacore'


@pytest.mark.parametrize(
  'name, words',
  [
    ('v5', 'did you mean v5e|v5p'),
    (
      'h100:2x2',
      'accepted: KIND:SIZES with a kind of v4, v5e, v5p, v6e, tpu7x',
    ),
    ('v5p', 'accepted: 3 sizes for v5p, such as v5p:4x4x4'),
    ('v5p:4x4', 'accepted: 3 sizes for v5p'),
    ('v5e:4x4x4', 'accepted: 2 sizes for v5e, such as v5e:4x4'),
    ('v5e:4xx4', 'accepted: 2 sizes'),
    ('v5e:0x4', 'accepted: 2 sizes'),
    ('v5e:-4x4', 'accepted: 2 sizes'),
  ],
)
def test_what_is_no_topology_is_refused(name, words):
  with pytest.raises(ValueError, match=words) as error:
    topology.parse(name)
  assert '\n' not in str(error.value)
  assert repr(name) in str(error.value)


def test_no_slices_are_refused():
  with pytest.raises(ValueError, match='--slices is 0; accepted: 1'):
    topology.parse('v5e:2x2', 0)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'pip install .imagen-jax\[tpu\]'):
    topology.prepare()


def test_what_libtpu_refuses_is_one_line(monkeypatch):
  def refuse(**options):
    raise RuntimeError('no such\n  thing')

  monkeypatch.setattr(topology.topologies, 'get_topology_desc', refuse)
  with pytest.raises(ValueError, match='refuses: no such thing; accepted'):
    topology.devices(topology.parse('v5e:3x5'))


def test_a_lock_that_another_process_holds_is_told(monkeypatch):
  def refuse(**options):
    raise RuntimeError('ABORTED: Internal error when accessing the lockfile.')

  monkeypatch.setattr(topology.topologies, 'get_topology_desc', refuse)
  with pytest.raises(ValueError, match='in use by another process') as error:
    topology.devices(topology.parse('v5e:2x2'))
  assert 'accepted: one at a time' in str(error.value)


def test_what_libtpu_is_asked_for(monkeypatch):
  asked = {}

  class Found:
    devices = ('a', 'b')

  def describe(**options):
    asked.update(options)
    return Found

  monkeypatch.setattr(topology.topologies, 'get_topology_desc', describe)
  found = topology.devices(topology.parse('v4:2x2x1', 2))
  assert found == ['a', 'b']
  assert asked == {
    'platform': 'tpu',
    'topology_name': 'v4:2x2x1',
    'chip_config_name': 'megacore',
    'num_slices': 2,
  }
