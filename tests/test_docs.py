"""The pages in `docs/`: no option is without a word."""

import dataclasses
import re

import pytest

from imagen_jax import config
from imagen_jax.config import inputs


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


def test_every_field_of_a_task_is_told(repo):
  found = words(repo, 'data.md')
  for group in (config.TaskConfig, config.FilterConfig):
    fields = {field.name for field in dataclasses.fields(group)}
    assert not fields - found, group
  assert not set(inputs.KINDS) - found
