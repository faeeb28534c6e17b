"""The pages in `docs/`: no option is without a word."""

import dataclasses
import re
import shlex

import pytest

from imagen_jax import config
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


def test_every_loss_of_time_and_metric_of_memory_is_told(repo):
  found = words(repo, 'running.md')
  assert not set(goodput.NAMES) - found
  assert not set(memory.METRICS) - found
  assert 'module_norms' in found
