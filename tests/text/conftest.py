"""Checkpoints that T5X wrote, and encoders of their size in the table."""

import json
import pathlib
import shutil

import golden_files
import numpy as np
import pytest

from imagen_jax import storage
from imagen_jax.text import encoders
from imagen_jax.text import open_shards
from imagen_jax.text import write_store

DATA = pathlib.Path(__file__).parents[1] / 'data'


def entry(model):
  """Returns the table's row for the `config` of a golden config.json."""
  config = model['config']
  return encoders.Encoder(
    't5',
    embed_dim=config['emb_dim'],
    num_layers=config['num_encoder_layers'],
    num_heads=config['num_heads'],
    head_dim=config['head_dim'],
    mlp_dim=config['mlp_dim'],
    activation={
      ('relu',): 'relu',
      ('gelu', 'linear'): 'gated-gelu',
    }[tuple(config['mlp_activations'])],
    split_heads=model['arch'] == 'scalable_t5',
    vocab_size=config['vocab_size'],
    num_pieces=100,
  )


@pytest.fixture(scope='session')
def golden_folder(tmp_path_factory):
  """The unpacked golden checkpoints; not to be written to."""
  return golden_files.unpack(tmp_path_factory.mktemp('golden'))


@pytest.fixture(scope='session')
def golden(golden_folder):
  """Loads (checkpoint's folder, table row, golden arrays) of a model."""

  def load(name):
    folder = golden_folder / name
    model = json.loads((folder / 'config.json').read_text())
    with np.load(folder / 'golden.npz') as arrays:
      return str(folder / 'checkpoint_1000'), entry(model), dict(arrays)

  return load


@pytest.fixture
def tiny(golden, monkeypatch):
  """Puts the golden models into the table as 'tiny_NAME'."""

  def add(name):
    checkpoint, row, _ = golden(name)
    monkeypatch.setitem(encoders.TABLE, f'tiny_{name}', row)
    return checkpoint

  return add


@pytest.fixture
def folder_bucket(tmp_path, monkeypatch):
  """A folder behind gs://bucket, for TensorStore and for ArrayRecord."""
  folder = tmp_path / 'bucket'
  folder.mkdir()
  local = lambda path: path.replace('gs://bucket', str(folder))
  kvstore = storage.kvstore
  monkeypatch.setattr(
    storage,
    'kvstore',
    lambda path, *, folder: kvstore(local(path), folder=folder),
  )
  opened = open_shards.array_record_module.ArrayRecordReader
  monkeypatch.setattr(
    open_shards.array_record_module,
    'ArrayRecordReader',
    lambda path, **options: opened(local(path), **options),
  )
  monkeypatch.setattr(write_store, '_POLL_SECONDS_BUCKET', 0.05)
  return folder


@pytest.fixture
def writable(golden_folder, tmp_path):
  """Copies a golden checkpoint to where it may be damaged."""

  def copy(name):
    folder = tmp_path / name / 'checkpoint_1000'
    shutil.copytree(golden_folder / name / 'checkpoint_1000', folder)
    return folder

  return copy
