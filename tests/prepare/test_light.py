"""What workers import."""

import importlib.util
import subprocess
import sys

import pytest


@pytest.mark.parametrize('name', ['write', 'summary', 'runner', 'pipelines'])
def test_only_reading_takes_tensorflow(name):
  """It takes seconds to import, for each process of each pass."""
  if name == 'pipelines' and importlib.util.find_spec('apache_beam') is None:
    pytest.skip('Apache Beam is not installed')
  code = (
    f'import sys; from imagen_jax.prepare import {name}; '
    'assert not {"tensorflow", "jax"} & set(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
