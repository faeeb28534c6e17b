"""Pictures that are drawn from exported stages, as files."""

import json

import numpy as np
from PIL import Image

from imagen_jax import generate

PROMPTS = ['a red circle', 'two blue squares', 'a large green star']


def sample(folders, out, prompts=PROMPTS, **options):
  """Samples of exported stages into a folder; returns it and its lines."""
  options = {
    'num': 1,
    'guidance_weights': [None],
    'steps': None,
    'sampler': None,
    'seed': 0,
    'batch_size': 8,
    'text_checkpoint': None,
    **options,
  }
  generate.generate(folders, prompts, str(out), **options)
  lines = (out / 'samples.jsonl').read_text().splitlines()
  return out, [json.loads(line) for line in lines]


def pixels(out, line):
  with Image.open(out / line['file']) as image:
    return np.asarray(image).astype(int)
