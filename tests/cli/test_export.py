"""`imagen-jax export`, in this process."""

import json
import re

import averaged
import numpy as np
import pytest

from imagen_jax import export
from imagen_jax.cli import main
from imagen_jax.train import checkpoint


def test_the_step_that_was_asked_for(workdirs, tmp_path, capsys):
  argv = ['export', '--workdir', workdirs['sr'], '--out', str(tmp_path / 'o')]
  assert main.main([*argv, '--step', '2']) == 0
  assert capsys.readouterr().out == (
    f'exported the EMA weights of tiny32 at step 2 (0.1 MB) to {tmp_path}/o\n'
  )
  assert export.load_weights(str(tmp_path / 'o')).step == 2


def test_raw_weights(workdirs, tmp_path, capsys):
  out = tmp_path / 'o'
  argv = ['export', '--workdir', workdirs['base'], '--out', str(out)]
  assert main.main([*argv, '--ema', 'raw']) == 0
  assert (
    'exported the raw weights of tiny16 at step 4' in capsys.readouterr().out
  )
  assert json.loads((out / 'manifest.json').read_text())['weights'] == 'raw'
  found = export.flatten(export.load_weights(str(out)).params)
  with checkpoint.Checkpointer(workdirs['base'], create=False) as saved:
    raw = saved.restore_some(4, 'params', list(found))
    averages = saved.restore_some(4, 'ema_params', list(found))
  for name, array in found.items():
    np.testing.assert_array_equal(array, raw[name])
    assert (array != averages[name]).any()


def test_an_average_that_was_not_kept(tmp_path, capsys):
  averaged.run(tmp_path / 'run', averaged.config(num_steps=8))
  argv = ['export', '--workdir', str(tmp_path / 'run'), '--out']
  argv += [str(tmp_path / 'o'), '--ema-length', '0.12', '--at-step', '6']
  assert main.main(argv) == 0
  said = capsys.readouterr().out
  assert 'exported the average of length 0.12 of base64 at step 6 (' in said
  assert re.search(
    r'^made of 3 snapshots; its weights over time are \d.\d\d% from those of ',
    said,
    re.MULTILINE,
  )


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--at-step', '2'], '--at-step is 2 without --ema-length; accepted: both'),
    (
      ['--ema-length', '0.1', '--step', '2'],
      '--step is 2 with --ema-length; accepted: --at-step',
    ),
    (['--ema-length', '0.1'], 'has no snapshots in ema/, of which --ema-len'),
    (['--ema-length', '0'], '--ema-length is 0.0; accepted: above 0, to 0.28'),
  ],
)
def test_refusals_of_lengths(flags, words, workdirs, tmp_path, capsys):
  argv = ['export', '--workdir', workdirs['sr'], '--out', str(tmp_path / 'o')]
  assert main.main([*argv, *flags]) == 2
  said = capsys.readouterr().err
  assert words in said
  assert said.count('\n') == 1


def test_refusals_are_one_line(workdirs, tmp_path, capsys):
  out = str(tmp_path / 'o')
  none = str(tmp_path / 'none')
  for flags, words in (
    (['--workdir', none], f'--workdir {none} has no checkpoint; accepted: a w'),
    (['--workdir', workdirs['sr'], '--step', '3'], 'of step 3; accepted: 2, 4'),
  ):
    assert main.main(['export', *flags, '--out', out]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count('\n') == 1
  assert not list(tmp_path.iterdir())
