"""A config of three kinds of sources, with all that a build meets."""

import io
import types

from PIL import Image
import pytest
import shard_files

CONFIG = """
from imagen_jax import config

SIMILAR = config.FilterConfig('similarity', least=0.1)
SAFE = config.FilterConfig('NSFW', accepted=('UNLIKELY',))


def get_config():
  unet = config.UNetConfig(
    channels=(32,), num_res_blocks=(1,), self_attention=(False,),
    text_attention=(False,),
  )
  tasks = (
    config.TaskConfig(
      'tars', '{folder}/tars', kind='webdataset', heldout=6, filters=(SIMILAR,),
    ),
    config.TaskConfig('rows', '{folder}/rows', kind='parquet', filters=(SAFE,)),
    config.TaskConfig('files', '{folder}/files', kind='folder'),
  )
  return config.Config(
    stage=config.StageConfig(image_size=16, unet=unet),
    data=config.DataConfig(tasks=tasks, max_bad_share=0.02),
    train=config.TrainConfig(batch_size=4),
  )
"""


def landscape(number, size=40):
  """Noise that is scaled up: what copies of it look like, and others not."""
  coarse = Image.open(io.BytesIO(shard_files.picture(1000 + number, 12, 12)))
  return coarse.resize((size + number % 7, size), Image.Resampling.BICUBIC)


def encoded(picture, form='PNG', **options):
  """Returns a picture as a file's bytes."""
  file = io.BytesIO()
  picture.save(file, form, **options)
  return file.getvalue()


def records(first, stop):
  """Yields records, some of them as they should not be."""
  for number in range(first, stop):
    own = landscape(number)
    jpg = {
      # Of the last one: the same pixels in another file, and other pixels.
      5: encoded(landscape(number - 1), compress_level=1),
      6: encoded(landscape(number - 2).resize((36, 33)), 'JPEG', quality=90),
      7: encoded(own)[:80],
      8: encoded(landscape(number, 12)),
      9: encoded(landscape(number, 20)),
    }.get(number % 40, encoded(own))
    yield shard_files.record(number, jpg=jpg)


@pytest.fixture(scope='session')
def prepared():
  """The functions above, for tests to call."""
  return types.SimpleNamespace(landscape=landscape, records=records)


@pytest.fixture(scope='session')
def sources(tmp_path_factory):
  """Config file of tasks that have their indexes."""
  from imagen_jax import config

  folder = tmp_path_factory.mktemp('sources')
  shard_files.write_many('webdataset', folder / 'tars', records(0, 130), 30)
  shard_files.write_many('parquet', folder / 'rows', records(120, 180), 30)
  # Pictures that the tars have, with captions of their own.
  again = [
    {**one, 'txt': f'again {one["key"]}', 'key': f'again-{one["key"]}'}
    for one in records(0, 3)
  ]
  shard_files.write_folder(folder / 'files', [*again, *records(500, 505)])
  path = folder / 'config.py'
  path.write_text(CONFIG.format(folder=folder))
  for task in config.load(str(path)).data.tasks:
    shard_files.index(task)
  return path
