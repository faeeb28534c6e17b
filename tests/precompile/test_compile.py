"""What is compiled, and what a compiler says of its memory."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.precompile import compile as compile_lib
from imagen_jax.precompile import topology
from imagen_jax.train import mfu
from imagen_jax.train import state as state_lib

GIB = 2**30
# As libtpu 0.0.50.1 says it, and as others are reported to.
MESSAGES = {
  'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the '
  'total memory required for HLO temporaries (20.50G) exceeds available HBM '
  '(15.75G). HLO module: jit_train_step.\nSee the web': 15.75,
  'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in '
  'memory space hbm. Used 20.50G of 15.48G hbm. Exceeded hbm capacity by '
  '5.02G.\n\nTotal hbm usage >= 21.00G:\n    reserved        530.00M': 15.48,
}


def stats(**sizes):
  """A compiled program whose memory analysis is `sizes`."""
  names = ('argument', 'output', 'alias', 'temp', 'generated_code')
  fields = {f'{name}_size_in_bytes': sizes.get(name, 0) for name in names}
  fields['peak_memory_in_bytes'] = sizes.get('peak', 0)
  found = types.SimpleNamespace(**fields)
  return types.SimpleNamespace(memory_analysis=lambda: found)


def test_memory_of_what_fits():
  compiled = stats(argument=100, output=90, alias=80, temp=50, generated_code=7)
  memory = compile_lib.used(compiled, 167)
  assert memory.total == 167 and memory.fits
  assert not compile_lib.used(compiled, 166).fits
  assert (memory.temporaries, memory.peak, memory.code) == (50, None, 7)


def test_a_compiler_that_tells_no_temporaries():
  memory = compile_lib.used(stats(argument=100, peak=0), 1000)
  assert memory.temporaries is None and memory.peak is None


@pytest.mark.parametrize('message', MESSAGES)
def test_memory_of_what_does_not_fit(message):
  mesh = sharding.make_mesh(config_lib.MeshConfig(), jax.devices())
  place = jax.sharding.NamedSharding(mesh, jax.P('data'))
  given = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=place)
  memory = compile_lib.refused(message, {'a': given}, 16 * GIB)
  assert not memory.fits
  assert memory.total == round(20.5 * GIB)
  assert memory.capacity == round(MESSAGES[message] * GIB)
  # An eighth of it on each of eight devices.
  assert memory.arguments == 128 * 4
  assert memory.temporaries == memory.total - 128 * 4
  assert memory.peak is None and memory.code is None


def test_the_largest_that_is_kept_of_a_device(repo):
  config = config_lib.load(str(repo / 'configs/tiny_base.py'))
  found = compile_lib.largest_kept(config, 6, count=3)
  sizes = [size for size, _, _ in found]
  assert len(found) == 3 and sizes == sorted(sizes, reverse=True)
  stage = config.stage
  pixels = (stage.image_size // stage.unet.stem_stride) ** 2
  assert sizes[0] >= 6 * pixels * stage.unet.channels[0] * 2
  assert all('UNet' in source for _, source, _ in found)
  assert all('[6,' in shape for _, _, shape in found)


def test_a_step_is_compiled_for_all_devices(repo, monkeypatch):
  """By the CPU's compiler, for the eight devices that it simulates."""
  monkeypatch.setattr(topology, 'devices', lambda pod: jax.devices())
  config = config_lib.override(
    config_lib.load(str(repo / 'configs/tiny_base.py:test')),
    ['mesh.data=2', 'mesh.fsdp=4', 'train.batch_size=16'],
  )
  pod = topology.parse('v5e:2x4')
  found = compile_lib.compile_step(config, pod)
  assert found.mesh == {'data': 2, 'fsdp': 4, 'model': 1}
  # Two images on each device.
  assert found.flops == 2 * mfu.model_flops(config)
  assert found.memory.capacity == pod.chip.hbm_bytes
  assert 'ENTRY' in found.hlo and found.memory.fits
  # Of 16 tokens and 384 channels, which are no axes that are shared.
  assert found.whole[0] == ('ema_params/text_positions/table', 16 * 384 * 4)


def test_a_batch_that_does_not_divide_names_the_slices(repo, monkeypatch):
  monkeypatch.setattr(topology, 'devices', lambda pod: jax.devices())
  config = config_lib.override(
    config_lib.load(str(repo / 'configs/tiny_base.py:test')),
    ['mesh.data=8', 'train.batch_size=12'],
  )
  pod = topology.parse('v5e:2x2', slices=2)
  with pytest.raises(
    ValueError, match='^train.batch_size is 12 on v5e:2x2 x 2 s'
  ):
    compile_lib.compile_step(config, pod)


def test_another_error_is_not_about_memory():
  assert compile_lib.refused('INTERNAL: a bug', {}, GIB) is None


def test_a_batch_is_what_the_loop_makes(repo):
  config = config_lib.load(str(repo / 'configs/tiny_sr.py'))
  batch = state_lib.abstract_batch(config, 6)
  stage = config.stage
  assert batch.image.shape == (6, stage.image_size, stage.image_size, 3)
  assert batch.lowres.shape == (6, stage.lowres_size, stage.lowres_size, 3)
  assert batch.text.embed.dtype == jnp.bfloat16
  base = config_lib.load(str(repo / 'configs/tiny_base.py'))
  assert state_lib.abstract_batch(base, 6).lowres is None


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs libtpu, the compiler for TPUs (pip install imagen-jax[tpu])',
)
def test_the_tiny_stage_for_four_chips(repo, tmp_path):
  """The command, on the real compiler: a loop and its collectives are read."""
  arguments = ['precompile', '--config', str(repo / 'configs/tiny_base.py')]
  arguments += ['--topology', 'v5e:2x2', '--json', str(tmp_path / 'a.json')]
  arguments += ['--hlo', str(tmp_path / 'a.txt')]
  for each in (
    'stage.unet.scan=[true]',
    'train.batch_size=32',
    'mesh.fsdp=2',
  ):
    arguments += ['--set', each]
  # A process of its own: the compiler's lock is held until its end.
  done = subprocess.run(
    [sys.executable, '-m', 'imagen_jax', *arguments],
    capture_output=True,
    text=True,
    # Not eight simulated devices, and not the suite's compiled programs.
    env={k: v for k, v in os.environ.items() if not k.startswith('JAX_')},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads((tmp_path / 'a.json').read_text())
  assert found['modelled'] and found['fits']
  assert found['devices'] == 4
  assert found['mesh'] == {'data': 2, 'fsdp': 2, 'model': 1}
  assert found['hbm']['arguments'] > 2**20
  step = found['step_seconds']
  assert 0 < step['opt'] < step['mid'] < step['pess'] < 1
  assert 0 < found['mfu']['pess'] < found['mfu']['mid'] < 1
  assert found['collectives']['all-gather']['wire_bytes'] > 2**20
  assert found['collectives']['all-reduce']['wire_bytes'] > 2**20
  assert 'while(' in (tmp_path / 'a.txt').read_text()
  assert 'modelled' in done.stdout
