"""`imagen-jax export`, in this process."""

from imagen_jax import export
from imagen_jax.cli import main


def test_the_step_that_was_asked_for(workdirs, tmp_path, capsys):
  argv = ['export', '--workdir', workdirs['sr'], '--out', str(tmp_path / 'o')]
  assert main.main([*argv, '--step', '2']) == 0
  assert capsys.readouterr().out == (
    f'exported the EMA weights of tiny32 at step 2 (0.1 MB) to {tmp_path}/o\n'
  )
  assert export.load_weights(str(tmp_path / 'o')).step == 2


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
