"""Numbers of an independent implementation."""

import json
import pathlib

import pytest


@pytest.fixture(scope='session')
def golden():
  """What tests/data/make_diffusers_golden.py wrote, by Hugging Face's code."""
  data = pathlib.Path(__file__).parents[1] / 'data'
  return json.loads((data / 'diffusers-golden.json').read_text())
