"""Configs from files of Python."""

import pytest

from imagen_jax import config as config_lib


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / 'run.py'
  path.write_text("""
from imagen_jax import config
ROWS = {'small': 1, 'large': 2}
def get_config(row='small'):
  return config.Config(train=config.TrainConfig(seed=ROWS[row]))
""")
  return path


def test_load_takes_a_file_and_a_row(config_file):
  assert config_lib.load(str(config_file)).train.seed == 1
  assert config_lib.load(f'{config_file}:large').train.seed == 2


@pytest.mark.parametrize(
  'spec, words',
  [
    ('{}:huge', "has no row 'huge'; accepted: small, large"),
    ('no/such.py', "--config is 'no/such.py'; accepted: a file such as"),
    ('run.txt', "--config is 'run.txt'"),
  ],
)
def test_load_refuses(config_file, spec, words):
  with pytest.raises(ValueError, match=words):
    config_lib.load(spec.format(config_file))


def test_load_refuses_a_row_of_a_file_without_rows(tmp_path):
  path = tmp_path / 'run.py'
  path.write_text('def get_config(): pass')
  with pytest.raises(ValueError, match="no row 'a'; accepted: none"):
    config_lib.load(f'{path}:a')


def test_load_refuses_a_file_without_get_config(tmp_path):
  path = tmp_path / 'run.py'
  path.write_text('config = 1')
  with pytest.raises(ValueError, match='run.py has no get_config; accepted:'):
    config_lib.load(str(path))


@pytest.mark.parametrize(
  'line, words',
  [
    ('x = (', r'bad.py:2: SyntaxError: .* accepted: a file that Python runs'),
    ('import nothing_at_all', r'bad.py:2: ModuleNotFoundError: .*; accepted'),
    (
      'config.TrainConfig(steps=3)',
      r"bad.py:2: TypeError: .*'steps'.*accepted",
    ),
    ('config.TrainConfig(seed=-1)', r'bad.py:2: train.seed is -1; accepted: 0'),
  ],
)
def test_load_refuses_a_file_whose_code_fails(tmp_path, line, words):
  (tmp_path / 'bad.py').write_text(f'from imagen_jax import config\n{line}\n')
  with pytest.raises(ValueError, match=words):
    config_lib.load(f'{tmp_path}/bad.py')


def test_load_refuses_what_is_no_config(tmp_path):
  path = tmp_path / 'run.py'
  path.write_text('def get_config(): return {}')
  with pytest.raises(ValueError, match='returned a dict; accepted: an imagen'):
    config_lib.load(str(path))
