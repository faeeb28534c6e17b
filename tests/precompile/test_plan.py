"""A search for the best way to run, with a compiler that is made up."""

import json

import pytest

from imagen_jax import config as config_lib
from imagen_jax.cli import main
from imagen_jax.precompile import compile as compile_lib
from imagen_jax.precompile import plan
from imagen_jax.precompile import report
from imagen_jax.precompile import topology

GIB = 2**30
# Of an image, by policy.
COUNTED = {'none': 4 * GIB, 'products': 2 * GIB, 'full': GIB // 4}
ARGUMENTS = 2 * GIB


def config(*settings):
  return config_lib.override(
    config_lib.Config(),
    ['train.batch_size=256', 'mesh.fsdp=4', *settings],
  )


def ladder(capacity, *settings, num_devices=16):
  return plan.ways(
    config(*settings), num_devices, capacity, COUNTED.__getitem__
  )


class Compiler:
  """Keeps half of what is counted, and takes a time for each setting."""

  def __init__(self, capacity, seconds=None):
    self.asked = []
    self._capacity, self._seconds = capacity, seconds or {}

  def __call__(self, config):
    (policy,) = config.stage.unet.remat_policy
    images = config.train.batch_size // 16 // config.train.microbatches
    way = (config.mesh.fsdp, policy, config.train.microbatches)
    self.asked.append(way)
    temporaries = COUNTED[policy] * images // 2
    total = ARGUMENTS + temporaries
    fits = total <= self._capacity
    found = {
      'fits': fits,
      'hbm': {
        'arguments': ARGUMENTS,
        'temporaries': temporaries,
        'total': total,
        'capacity': self._capacity,
      },
      'hbm_free_share': 1 - total / self._capacity,
      'compile_wall_seconds': 60.0,
    }
    if fits:
      found['step_seconds'] = {'mid': self._seconds.get(way[0], 0.5)}
      found['mfu'] = {'mid': 0.25}
    return found


def search(compiler, found, *settings, tries=6):
  said = []
  tried = plan.search(
    config(*settings),
    found,
    lambda way: plan.other_meshes(way, config(*settings), 16),
    compiler,
    tries=tries,
    say=said.append,
  )
  return tried, said


def test_ways_are_in_the_order_of_the_time_they_should_take():
  found = ladder(1000 * GIB)
  order = [(way.policy, way.microbatches) for way in found]
  # 16 images a device: less than 8 at once are slow.
  assert order[:6] == [
    ('none', 1), ('none', 2), ('products', 1), ('products', 2), ('full', 1),
    ('full', 2),
  ]  # fmt: skip
  assert ('full', 16) in order and ('full', 32) not in order
  assert {way.fsdp for way in found} == {4}
  assert found[0].counted == 64 * GIB and found[1].counted == 32 * GIB


def test_what_cannot_fit_by_what_is_counted_is_left_out():
  # A fifth of 64 and of 32 GiB is more than 6 GiB; of 16 GiB it is not.
  found = ladder(6 * GIB)
  assert ('none', 1) not in [(way.policy, way.microbatches) for way in found]
  assert all(0.2 * way.counted <= 6 * GIB for way in found)
  assert ('none', 4) in [(way.policy, way.microbatches) for way in found]


def test_the_first_that_fits_is_tried_on_other_meshes():
  compiler = Compiler(100 * GIB, seconds={4: 0.5, 8: 0.6, 2: 0.4})
  tried, said = search(compiler, ladder(100 * GIB))
  assert compiler.asked == [(4, 'none', 1), (8, 'none', 1), (2, 'none', 1)]
  found = plan.best(tried)
  assert found.way.fsdp == 2
  assert found.way.settings() == [
    'mesh.data=-1',
    'mesh.fsdp=2',
    'stage.unet.remat=true',
    'stage.unet.remat_policy=["none"]',
    'train.microbatches=1',
  ]
  shown = plan.text(tried)
  assert shown.count('yes') == 3
  assert "--set mesh.fsdp=2 --set stage.unet.remat=true --set '" in shown
  assert 'minutes' in said[2] and 'at most 2 to go' in said[2]


def test_what_did_not_fit_tells_what_else_does_not():
  # 34, 18 and 18 GiB are needed of the first three; 10 of the fourth.
  compiler = Compiler(13 * GIB)
  tried, said = search(compiler, ladder(13 * GIB))
  assert [one.figures['fits'] for one in tried][:2] == [False, True]
  assert compiler.asked[1] == (4, 'products', 2)
  assert sum('left out' in line for line in said) == 2
  assert 'no' in plan.text(tried)
  # Of four that were compiled the last two are told as two and one to go.
  left = [line for line in said if line.startswith('compiling')]
  assert len(left) == 4
  assert 'at most 2 to go' in left[2] and 'at most 1 to go' in left[3]


def test_a_limit_of_tries_is_kept():
  compiler = Compiler(100 * GIB)
  tried, _ = search(compiler, ladder(100 * GIB), tries=2)
  assert len(tried) == len(compiler.asked) == 2


def test_where_nothing_fits_nothing_is_best():
  compiler = Compiler(ARGUMENTS)
  tried, _ = search(compiler, ladder(6 * GIB), tries=3)
  assert tried and plan.best(tried) is None
  assert plan.text(tried).endswith('none of them fits')


def test_a_compiler_that_does_not_tell_rules_nothing_out():
  hbm = {'arguments': 1, 'temporaries': None, 'capacity': 10}
  one = plan.Tried(ladder(100 * GIB)[0], {'hbm': hbm, 'fits': False})
  assert plan.may_fit(one.way, one)


@pytest.mark.parametrize('share, may', [(1.1, True), (1.2, False)])
def test_a_little_more_than_there_is_may_fit(share, may):
  """What is predicted is wrong by some, and to compile it is the proof."""
  way = ladder(100 * GIB)[0]
  hbm = {'arguments': 0, 'temporaries': 10 * GIB, 'capacity': 10 * GIB / share}
  assert plan.may_fit(way, plan.Tried(way, {'hbm': hbm, 'fits': False})) == may


def test_meshes_divide_the_devices_and_keep_the_batch():
  (way, *_) = ladder(100 * GIB)
  meshes = lambda way, *settings: [
    other.fsdp for other in plan.other_meshes(way, config(*settings), 16)
  ]
  assert meshes(way) == [8, 2]
  (widest, *_) = ladder(100 * GIB, 'mesh.fsdp=16')
  assert meshes(widest, 'mesh.fsdp=16') == [8]
  # 'data' splits images, so that fsdp alone splits the batch.
  (split, *_) = ladder(100 * GIB, 'mesh.height=data')
  assert meshes(split, 'mesh.height=data') == []


def test_a_mesh_of_what_is_left():
  (way, *_) = ladder(100 * GIB, 'mesh.data=2', 'mesh.fsdp=-1')
  assert way.fsdp == 8


@pytest.mark.parametrize(
  'settings, words',
  [
    (['mesh.fsdp=3'], 'mesh.fsdp is 3 and mesh.model 1 on 16 devices'),
    (['train.batch_size=40'], 'train.batch_size is 40 .* multiples of 16'),
  ],
)
def test_what_does_not_fit_the_topology_is_refused(settings, words):
  with pytest.raises(ValueError, match=words):
    ladder(100 * GIB, *settings)


def test_less_is_counted_of_what_is_rematerialised(repo):
  tiny = config_lib.load(str(repo / 'configs/tiny_base.py'))
  none, products, full = (
    plan.counted_bytes(tiny, policy) for policy in ('none', 'products', 'full')
  )
  assert none > products > full > 0


def test_the_command(monkeypatch, repo, tmp_path, capsys):
  monkeypatch.setattr(topology, 'prepare', lambda: None)
  monkeypatch.setattr(topology, 'devices', lambda pod: [None] * 16)
  monkeypatch.setattr(
    plan, 'counted_bytes', lambda config, policy: COUNTED[policy]
  )
  monkeypatch.setattr(compile_lib, 'compile_step', lambda config, pod: config)
  compiler = Compiler(95 * GIB)
  monkeypatch.setattr(
    report, 'figures', lambda config, pod, compiled: compiler(config)
  )
  arguments = ['--config', str(repo / 'configs/base64.py'), '--topology']
  arguments += ['v5p:2x2x4', '--set', 'train.batch_size=256']
  arguments += ['--json', str(tmp_path / 'a.json')]
  assert main.main(['plan', *arguments]) == 0
  shown = capsys.readouterr()
  assert 'best that fits, modelled: --set mesh.data=-1 ' in shown.out
  assert 'compiling --set' in shown.err
  assert len(json.loads((tmp_path / 'a.json').read_text())) == 2
  compiler._capacity = GIB
  assert main.main(['plan', *arguments]) == 1
  missing = str(tmp_path / 'none' / 'a.json')
  assert main.main(['plan', *arguments, '--json', missing]) == 2
  assert f'--json is {missing}; accepted' in capsys.readouterr().err
  assert main.main(['plan', *arguments, '--tries', '0']) == 2
  assert '--tries is 0; accepted' in capsys.readouterr().err
