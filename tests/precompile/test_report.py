"""What is told of a step that fits, and of one that does not."""

import dataclasses
import json

import pytest

from imagen_jax import config as config_lib
from imagen_jax.precompile import compile as compile_lib
from imagen_jax.precompile import report
from imagen_jax.precompile import topology

GIB = 2**30
POD = topology.parse('v5e:2x2')


@pytest.fixture(autouse=True)
def version(monkeypatch):
  monkeypatch.setattr(report.importlib.metadata, 'version', lambda name: '9.9')


def compiled(text, **memory):
  sizes = {
    'arguments': 2 * GIB, 'temporaries': 4 * GIB, 'peak': 6 * GIB, 'code': 0,
    'total': 6 * GIB, 'capacity': 16 * GIB,
  }  # fmt: skip
  return compile_lib.Compiled(
    hlo=text,
    memory=compile_lib.Memory(**sizes | memory),
    mesh={'data': 4, 'fsdp': 1, 'model': 1},
    flops=1e12,
    whole=[('params/big', 2**21), ('params/small', 100)],
    wall_seconds=120.0,
    cpu_seconds=60.0,
  )


def config(*settings):
  return config_lib.override(
    config_lib.Config(), ['train.batch_size=64', *settings]
  )


def program(write):
  return write.program(
    [
      '%p = f32[8,128]{1,0} parameter(0)',
      '%c = f32[8,128] convolution(%p, %p), dim_labels=bf_io->bf, '
      + write.estimate(15_000_000),
      '%g = f32[8,128] all-reduce(%p), replica_groups={}',
      f'ROOT %n = f32[8,128] negate(%c), {write.estimate(3_000_000)}',
    ]
  )


def test_figures_of_a_step_that_fits(write):
  found = report.figures(config(), POD, compiled(program(write)))
  assert json.loads(json.dumps(found)) == found
  assert found['modelled'] is True
  assert found['fits'] and found['hbm_free_share'] == 1 - 6 / 16
  # 10 ms of convolution, 2 ms of element-wise work at most.
  step = found['step_seconds']
  assert step['pess'] == pytest.approx(12e-3, rel=1e-3)
  assert step['opt'] == pytest.approx(10e-3, rel=1e-2)
  assert found['mfu']['mid'] == pytest.approx(1e12 / step['mid'] / 197e12)
  assert found['mfu']['opt'] == pytest.approx(1e12 / step['opt'] / 197e12)
  assert found['mfu']['pess'] == pytest.approx(1e12 / step['pess'] / 197e12)
  assert found['images_per_second_per_device'] == pytest.approx(
    64 / 4 / step['mid']
  )
  assert found['cycles_by_category']['matrix units'] == 15_000_000
  assert found['replicated'] == [{'path': 'params/big', 'bytes': 2**21}]
  assert found['dearest'][0]['category'] == 'matrix units'
  assert 'would_fit' not in found


def test_the_text_says_that_all_is_modelled(write):
  text = report.text(report.figures(config(), POD, compiled(program(write))))
  assert 'All figures are modelled' in text and 'none was measured' in text
  for words in (
    'v5e:2x2: 4 devices', '6.00 GiB of 16.00 GiB', 'fits, 62% free',
    'matrix units', 'collectives', 'modelled MFU', 'params/big',
    '2.0 minutes, 1.0 of processor time', 'libtpu 9.9',
  ):  # fmt: skip
    assert words in text
  assert 'params/small' not in text


def test_a_step_that_does_not_fit_says_what_would():
  large = (3 * GIB, 'UNet/down0', 'f32[8]')
  step = compiled(
    None, total=22 * GIB, temporaries=20 * GIB, code=None, largest=(large,)
  )
  settings = ('stage.unet.remat_policy=["products"]',)
  found = report.figures(config(*settings), POD, step)
  assert not found['fits'] and 'step_seconds' not in found
  text = report.text(found)
  assert 'does not fit, by 6.00 GiB' in text
  assert '3.00 GiB  UNet/down0  f32[8]' in text
  assert '  program      (not told)' in text
  # 14 GiB of the 20 are there: 44 images of 64, and 6 devices for all.
  assert 'train.batch_size=44 or so, in place of 64' in text
  assert 'train.microbatches=2 or so for the same batch, in place of 1' in text
  assert 'about 6 devices for the same batch, in place of 4' in text
  assert 'stage.unet.remat_policy=["full"]' in text
  assert 'mesh.fsdp=2 or more, in place of 1' in text


def test_of_many_copies_the_largest_are_told(write):
  whole = [(f'params/{n}', 2**22 - n) for n in range(13)]
  step = dataclasses.replace(compiled(program(write)), whole=whole)
  found = report.figures(config(), topology.parse('v5e:2x2', slices=2), step)
  assert len(found['replicated']) == 13
  text = report.text(found)
  assert 'v5e:2x2 x 2 slices: 4 devices' in text
  assert 'params/9\n' in text and 'params/10' not in text
  assert 'and 3 more of 12.0 MiB' in text


def test_a_smaller_batch_divides_by_parts_and_shards():
  step = compiled(None, total=22 * GIB, temporaries=20 * GIB)
  levers = report.advice(config('train.microbatches=2'), POD, step, 4)
  # Of 44.8 images 40 divide by 2 parts on 4 devices; of 16 a device, 2 times
  # 20 / 14 parts are 4.
  assert levers[0].startswith('train.microbatches=4 or so ')
  assert levers[1].startswith('train.batch_size=40 or so, ')
  # Where 'data' splits images, fsdp alone splits the batch: two times.
  split = config('train.batch_size=70', 'mesh.height=data')
  step = dataclasses.replace(step, mesh={'data': 2, 'fsdp': 2, 'model': 1})
  assert report.advice(split, POD, step, 4)[1].startswith('train.batch_size=48')
  # No more parts than a device has images.
  alone = report.advice(config('train.microbatches=16'), POD, step, 4)
  assert not any('microbatches' in lever for lever in alone)


def test_levers_that_are_pulled_are_not_named():
  step = compiled(None, arguments=GIB, total=22 * GIB, temporaries=20 * GIB)
  levers = report.advice(config(), POD, step, 4)
  assert not any('remat' in lever or 'fsdp' in lever for lever in levers)
  hopeless = compiled(None, arguments=17 * GIB, total=18 * GIB)
  levers = report.advice(config('mesh.fsdp=1'), POD, hopeless, 1)
  assert levers == ['a topology of more or larger devices']


def test_a_compiler_that_does_not_tell_temporaries_is_told_of():
  step = compiled(None, temporaries=None, peak=None)
  text = report.text(report.figures(config(), POD, step))
  assert 'without the temporaries, which this libtpu does not tell' in text
