"""Small TFDS datasets, written as `imagen-jax data build` writes them."""

import io
import types

import batches
import numpy as np
from PIL import Image
import pytest

from imagen_jax import config as config_lib
from imagen_jax import data  # noqa: F401  Silences TensorFlow before TFDS.


def encode(image, form='PNG', **options):
  """Returns uint8 [H, W, 3] as the bytes of a file."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, form, **options)
  return file.getvalue()


def picture(number, height=8, width=8):
  """Returns noise, uint8 [height, width, 3], that differs by `number`."""
  rng = np.random.default_rng(number)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def example(number, height=8, width=8, captions=None):
  """Returns an example whose key and captions tell its number."""
  return {
    'image': encode(picture(number, height, width)),
    'captions': captions or [f'picture {number}'],
    'key': f'k{number}',
  }


def write(path, splits, form='array_record', features=None):
  """Writes {split: examples} to folder `path`; returns it as a string."""
  import tensorflow_datasets as tfds

  path.mkdir()
  identity = tfds.core.dataset_info.DatasetIdentity(
    name='toy',
    version=tfds.core.Version('1.0.0'),
    data_dir=str(path),
    module_name='toy',
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    disable_shuffling=True,
    features=tfds.features.FeaturesDict(
      features
      or {
        'image': tfds.features.Image(shape=(None, None, 3)),
        'captions': tfds.features.Sequence(tfds.features.Text()),
        'key': tfds.features.Text(),
      }
    ),
  )
  writer = tfds.core.SequentialWriter(info, 7, file_format=form)
  writer.initialize_splits(list(splits))
  for split, examples in splits.items():
    writer.add_examples({split: examples})
  writer.close_all()
  return str(path)


def config(
  *tasks,
  image_size=8,
  lowres_size=None,
  whole_size=None,
  batch_size=8,
  **data_fields,
):
  """Returns a config over tasks of (name, path) or (name, path, rate)."""
  tasks = tuple(
    task
    if isinstance(task, config_lib.TaskConfig)
    else config_lib.TaskConfig(*task)
    for task in tasks
  )
  unet = config_lib.UNetConfig(
    channels=(32,),
    num_res_blocks=(1,),
    self_attention=(False,),
    text_attention=(False,),
  )
  return config_lib.Config(
    stage=config_lib.StageConfig(
      image_size=image_size,
      lowres_size=lowres_size,
      whole_size=whole_size,
      unet=unet,
    ),
    data=config_lib.DataConfig(tasks=tasks, **data_fields),
    train=config_lib.TrainConfig(batch_size=batch_size),
    text=config_lib.TextConfig(max_length=3, embed_dim=2),
  )


@pytest.fixture(scope='session')
def toy():
  """The functions above, for tests to call."""
  return types.SimpleNamespace(
    encode=encode,
    picture=picture,
    example=example,
    write=write,
    config=config,
  )


@pytest.fixture(scope='session')
def twenty(tmp_path_factory):
  """Path of 20 pictures to train on and 5 held out, in several files."""
  path = tmp_path_factory.mktemp('data') / 'twenty'
  return write(
    path,
    {
      'train': [example(number) for number in range(20)],
      'heldout': [example(number) for number in range(100, 105)],
    },
  )


@pytest.fixture(scope='session')
def eleven(tmp_path_factory):
  """Path of 11 pictures, each with three captions."""
  path = tmp_path_factory.mktemp('data') / 'eleven'
  examples = []
  for number in range(200, 211):
    captions = [f'picture {number} {which}' for which in 'abc']
    examples.append(example(number, captions=captions))
  return write(path, {'train': examples, 'heldout': examples[:2]})


@pytest.fixture(scope='module')
def mixed(toy, twenty, eleven):
  return toy.config(
    ('a', twenty), ('b', eleven, 2.0), lowres_size=4, crop='random'
  )


@pytest.fixture(scope='module')
def whole(mixed):
  """The first global batches of `mixed`, as one host makes them."""
  return batches.take(mixed, 5, store=batches.FakeStore())
