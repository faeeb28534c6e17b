"""The command `imagen-jax precompile`, but for the compiler."""

import json

import pytest

from imagen_jax import storage
from imagen_jax.cli import main
from imagen_jax.precompile import compile as compile_lib
from imagen_jax.precompile import report
from imagen_jax.precompile import topology

CONFIG = ['--config', 'configs/tiny_base.py']


@pytest.fixture
def run(monkeypatch, repo):
  """Runs the command, with a compiler that says what it is told to."""
  monkeypatch.chdir(repo)
  monkeypatch.setattr(topology, 'prepare', lambda: None)
  monkeypatch.setattr(report.importlib.metadata, 'version', lambda name: '9.9')
  asked = []

  def run(arguments, hlo, total=1):
    def compile_step(config, pod, save=None):
      asked.append((config, pod, save))
      return compile_lib.Compiled(
        hlo=hlo,
        memory=compile_lib.Memory(1, 0, 1, 0, total, 10),
        mesh={'data': 4, 'fsdp': 1, 'model': 1},
        flops=1.0,
        whole=[],
        wall_seconds=1.0,
        cpu_seconds=1.0,
      )

    monkeypatch.setattr(compile_lib, 'compile_step', compile_step)
    return main.main(['precompile', *CONFIG, *arguments]), asked

  return run


PROGRAM = """\
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8] negate(%p), backend_config={"estimated_cycles":"1500"}
}
"""


def test_the_figures_and_the_program_are_written(run, tmp_path, capsys):
  files = ['--json', str(tmp_path / 'a.json'), '--hlo', str(tmp_path / 'a.hlo')]
  options = ['--topology', 'v5e:2x2', '--slices', '2']
  files += ['--save', 'a.step']
  status, ((config, pod, save),) = run(
    [*options, *files, '--set', 'train.batch_size=12'], PROGRAM
  )
  assert status == 0
  assert save == 'a.step'
  assert config.train.batch_size == 12
  assert pod == topology.Topology('v5e', (2, 2), 2)
  assert (tmp_path / 'a.hlo').read_text() == PROGRAM
  found = json.loads((tmp_path / 'a.json').read_text())
  assert found['step_seconds']['pess'] == pytest.approx(1e-6)
  assert 'modelled' in capsys.readouterr().out


def test_what_is_not_understood_has_its_memory_told(run, tmp_path, capsys):
  program = PROGRAM.replace('negate(%p)', 'send(%p)')
  files = ['--json', str(tmp_path / 'a.json')]
  status, _ = run(['--topology', 'v5e:2x2', *files], program)
  assert status == 2
  found = json.loads((tmp_path / 'a.json').read_text())
  assert found['fits'] and 'step_seconds' not in found
  shown = capsys.readouterr()
  assert 'HBM a device' in shown.out
  assert shown.err == f'imagen-jax: {found["not_modelled"]}\n'


def test_what_does_not_fit_has_status_1(run, tmp_path, capsys):
  files = ['--hlo', str(tmp_path / 'a.hlo')]
  files += ['--save', str(tmp_path / 'a.step')]
  status, _ = run(['--topology', 'v5e:2x2', *files], None, total=11)
  assert status == 1
  assert not (tmp_path / 'a.hlo').exists()
  shown = capsys.readouterr()
  assert 'does not fit' in shown.out
  assert '--hlo was not written' in shown.err
  assert '--save was not written' in shown.err


@pytest.mark.parametrize('flag', ['--json', '--hlo', '--save'])
@pytest.mark.parametrize('name', ['', 'none/a'])
def test_what_cannot_be_written_is_refused_before_the_work(
  run, flag, name, tmp_path, capsys
):
  options = ['--topology', 'v5e:2x2', flag, str(tmp_path / name)]
  status, asked = run(options, PROGRAM)
  assert (status, asked) == (2, [])
  said = capsys.readouterr().err
  assert said.startswith(f'imagen-jax: {flag} is {tmp_path}')
  assert 'accepted: a file in a folder that is there' in said


def test_a_bucket_is_asked_before_the_work(run, monkeypatch):
  asked = []
  monkeypatch.setattr(
    storage, 'check_writable', lambda path, flag: asked.append((path, flag))
  )
  run(['--topology', 'v5e:2x2', '--save', 'gs://b/runs/a.step'], PROGRAM)
  assert asked == [('gs://b/runs', '--save')]


def test_an_unknown_topology_is_one_line(run, capsys):
  status, asked = run(['--topology', 'v9:2x2'], PROGRAM)
  assert (status, asked) == (2, [])
  assert capsys.readouterr().err.count('\n') == 1
