"""The pages in `docs/`: no option is without a word."""

import dataclasses
import re
import shlex

import pytest

from imagen_jax import config
from imagen_jax import curves
from imagen_jax.cli import devices
from imagen_jax.cli import main
from imagen_jax.cli import train
from imagen_jax.config import inputs
from imagen_jax.train import goodput
from imagen_jax.train import memory


def words(repo, page):
  """All that a page has in backticks or in code, as words."""
  text = (repo / 'docs' / page).read_text()
  code = re.findall(r'`([^`\n]+)`', text)
  return set(re.findall(r'\w+', ' '.join(code)))


@pytest.mark.parametrize('group', ['DiffusionConfig', 'SampleConfig'])
def test_every_option_of_diffusion_is_told(group, repo):
  fields = {field.name for field in dataclasses.fields(getattr(config, group))}
  assert not fields - words(repo, 'diffusion.md')


def test_every_value_of_diffusion_is_told(repo):
  """As the refusals name what is accepted."""
  found = words(repo, 'diffusion.md')
  for group in (config.DiffusionConfig, config.SampleConfig):
    for field in dataclasses.fields(group):
      if field.type not in (str, 'str'):
        continue
      with pytest.raises(
        ValueError, match=f'{field.name} is .*accepted: '
      ) as no:
        group(**{field.name: '?'})
      accepted = str(no.value).partition('accepted: ')[2]
      assert not set(re.findall(r"'(\w+)'", accepted)) - found, field.name


def test_what_is_of_networks_alone_is_told(repo):
  fields = {
    'residual_scale',
    'shortcut',
    'long_skip',
    'long_skip_scale',
    'remat',
    'remat_policy',
    'scan',
    'height',
    'width',
  }
  assert not fields - words(repo, 'networks.md')


def test_what_becomes_of_a_run_is_told(repo):
  found = words(repo, 'running.md')
  for group in (config.GuardConfig, config.KeepConfig):
    fields = {field.name for field in dataclasses.fields(group)}
    assert not fields - found, group
  table = re.findall(r'^\| ([\d, to]+) \|', page_of(repo), re.MULTILINE)
  statuses = set(re.findall(r'\d+', ' '.join(table)))
  assert {'0', '1', '2', str(devices.OTHERS_GONE), '130', '143'} <= statuses


def page_of(repo):
  return (repo / 'docs' / 'running.md').read_text()


def test_averages_and_rules_are_told(repo):
  fields = {
    field.name
    for field in dataclasses.fields(config.TrainConfig)
    if field.name.startswith('ema_')
  }
  assert not fields - words(repo, 'averages.md')
  fields = {field.name for field in dataclasses.fields(config.ParameterRule)}
  fields |= {'rules', 'momentum', 'moment_dtype'}
  assert not fields - words(repo, 'running.md')


def test_every_field_of_a_task_is_told(repo):
  found = words(repo, 'data.md')
  for group in (config.TaskConfig, config.FilterConfig):
    fields = {field.name for field in dataclasses.fields(group)}
    assert not fields - found, group
  assert not set(inputs.KINDS) - found


def test_every_field_of_what_a_run_shows_is_told(repo):
  fields = {
    field.name
    for field in dataclasses.fields(config.TrainConfig)
    if 'eval' in field.name or 'sample' in field.name
  }
  assert 'sample_lowres' in fields
  assert not fields - words(repo, 'running.md')


def test_stages_in_front_are_given_as_the_page_says(repo):
  text = (repo / 'docs' / 'running.md').read_text().replace('\\\n', ' ')
  (line,) = re.findall(r'imagen-jax (train .*sample_lowres.*)', text)
  parser = main._parser('train', train)
  args = parser.parse_args(shlex.split(line))
  cfg = config.override(config.load(f'{repo}/{args.config}'), args.set)
  assert cfg.stage.lowres_size
  assert cfg.train.sample_lowres == ('EXPORTS/base64',)


def test_curves_are_compared_as_the_page_says(
  repo, tmp_path, monkeypatch, capsys
):
  """Where the command says, with a run and curves that are made up."""
  text = (repo / 'docs' / 'quickstart.md').read_text()
  (line,) = re.findall(r'imagen-jax (status .*--compare.*)', text)
  workdir = tmp_path / 'quickstart' / 'base'
  workdir.mkdir(parents=True)
  cfg = config.load(f'{repo}/configs/tiny_base.py')
  (workdir / 'config.json').write_text(config.to_json(cfg))
  (workdir / 'metrics.jsonl').write_text('{"step": 50, "loss": 0.5}\n')
  found = curves.of_run(str(workdir), 'WORKDIR')
  (tmp_path / 'docs').mkdir()
  kept = tmp_path / 'docs' / 'quickstart-curves.jsonl'
  kept.write_text(curves.to_text([found]))
  monkeypatch.chdir(tmp_path)
  assert main.main(shlex.split(line)) == 0
  out = capsys.readouterr().out
  assert 'against docs/quickstart-curves.jsonl (base16):\n' in out
  assert out.endswith("the loss is the reference's\n")


def test_the_curves_that_are_kept_are_of_the_configs(repo):
  kept = repo / 'docs' / 'quickstart-curves.jsonl'
  found = curves.read(str(kept), '--compare')
  pages = [f'{repo}/configs/tiny_{name}.py' for name in ('base', 'sr')]
  for curve, cfg in zip(found, map(config.load, pages), strict=True):
    assert curve.stage == cfg.stage.name
    assert curve.fields['train.batch_size'] == cfg.train.batch_size
    assert curve.losses[-1]['step'] == cfg.train.num_steps
    assert curve.has_images
  assert found[0].scores[-1]['step'] == found[0].losses[-1]['step']
  assert {'shapes', 'openmoji'} <= {*found[0].scores[-1]['scores']}


def test_every_loss_of_time_and_metric_of_memory_is_told(repo):
  found = words(repo, 'running.md')
  assert not set(goodput.NAMES) - found
  assert not set(memory.METRICS) - found
  assert 'module_norms' in found
