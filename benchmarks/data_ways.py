"""How `benchmarks/data.py` reads pictures: a generator for each way."""

import concurrent.futures
import io
import itertools

import data_pictures
import numpy as np
from PIL import Image

CROP, LOWRES = 256, 64
BATCH = 64
SCALING = 1.5  # As `data.dct_scaling`.
FILTER = Image.Resampling.HAMMING


def fit(data, size, rng, *, dct=True):
  """Returns a picture as a stage takes it, by Pillow alone.

  The same pixels as ours: the same scale of JPEG, crop and filter.
  """
  image = Image.open(io.BytesIO(data))
  width, height = image.size
  short, side = min(width, height), CROP if size == 1024 else size
  scale = 1
  if dct:
    fitting = (n for n in (8, 4, 2) if short >= n * SCALING * size)
    scale = next(fitting, 1)
    if scale > 1:
      image.draft('RGB', (width // scale, height // scale))
  image = image.convert('RGB')
  if size == 1024:
    factor = short / size
    left, top = (
      int(rng.integers(round(s / factor) - side + 1)) * factor
      for s in (width, height)
    )
    square = side * factor
  else:
    left, top, square = (width - short) // 2, (height - short) // 2, short
  box = (left, top, min(left + square, width), min(top + square, height))
  image = image.resize((side, side), FILTER, box=[b / scale for b in box])
  if size == 1024:
    lowres = image.resize((LOWRES, LOWRES), FILTER)
    return np.asarray(image), np.asarray(lowres)
  return (np.asarray(image),)


def bare(folder, size, cores, *, dct=True):
  """Yields numbers of pictures, decoded in a loop."""
  files = sorted((folder / 'pictures').glob('*.jpg'))
  data = [file.read_bytes() for file in files]

  def some(start):
    rng = np.random.default_rng(start)
    for number in range(start, start + BATCH):
      fit(data[number % len(data)], size, rng, dct=dct)

  # Pillow decodes outside Python's lock.
  with concurrent.futures.ThreadPoolExecutor(cores) as pool:
    for start in itertools.count(step=BATCH * cores):
      starts = range(start, start + BATCH * cores, BATCH)
      list(pool.map(some, starts))
      yield BATCH * cores


def ours(folder, size, cores, *, kind='tfds', name='tfds'):
  """Yields numbers of pictures from our loader, with a thread a core."""
  from imagen_jax import config as config_lib
  from imagen_jax.data import loader

  # Any network: none is built.
  unet = config_lib.UNetConfig(
    channels=(32,),
    num_res_blocks=(1,),
    self_attention=(False,),
    text_attention=(False,),
  )
  stage = config_lib.StageConfig(image_size=size, unet=unet)
  if size == 1024:
    stage = config_lib.StageConfig(
      image_size=CROP, lowres_size=LOWRES, whole_size=size, unet=unet
    )
  config = config_lib.Config(
    stage=stage,
    data=config_lib.DataConfig(
      tasks=(data_pictures.task(folder, kind, name),),
      crop='random' if size == 1024 else 'center',
      threads=cores,
    ),
    train=config_lib.TrainConfig(batch_size=BATCH),
  )
  with loader.training_batches(config, rows=range(BATCH), store=None) as found:
    for batch in found:
      yield len(batch['slot'])


def webdataset(folder, size, cores):
  """Yields numbers of pictures from PyTorch's DataLoader over webdataset."""
  import torch
  import webdataset as wds

  rng = np.random.default_rng(0)
  shards = [str(folder / 'tar' / '00000.tar')] * cores
  dataset = (
    wds.WebDataset(shards, resampled=True, shardshuffle=False)
    .shuffle(1000)
    .to_tuple('jpg', 'txt')
    .map_tuple(lambda data: fit(data, size, rng), lambda text: text)
  )
  batches = torch.utils.data.DataLoader(
    dataset, BATCH, num_workers=cores, collate_fn=lambda some: some
  )
  for batch in batches:
    yield len(batch)


def grain(folder, size, cores):
  """Yields numbers of pictures from grain, over ArrayRecord files."""
  from array_record.python import array_record_data_source
  import grain as grain_lib

  from imagen_jax.data import examples

  rng = np.random.default_rng(0)
  files = [str(path) for path in (folder / 'tfds').glob('*train*array_record*')]
  source = array_record_data_source.ArrayRecordDataSource(files)
  options = grain_lib.ReadOptions(num_threads=cores, prefetch_buffer_size=BATCH)
  dataset = grain_lib.MapDataset.source(source).shuffle(seed=0).repeat()
  dataset = dataset.map(
    lambda record: fit(examples.parse(record)['image'][0], size, rng)
  )
  for batch in dataset.to_iter_dataset(options).batch(BATCH):
    yield len(batch[0])


def tfds(folder, size, cores):
  """Yields numbers of pictures from TFDS' own source of ArrayRecord files."""
  import tensorflow_datasets as tfds_lib

  import imagen_jax.data  # noqa: F401  Silences TensorFlow before TFDS.

  builder = tfds_lib.builder_from_directory(str(folder / 'tfds'))
  decoders = {'image': tfds_lib.decode.SkipDecoding()}
  source = builder.as_data_source('train', decoders=decoders)
  order = np.random.default_rng(0)

  def some(numbers):
    rng = np.random.default_rng(numbers[0])
    for number in numbers:
      fit(source[int(number)]['image'], size, rng)

  with concurrent.futures.ThreadPoolExecutor(cores) as pool:
    while True:
      list(pool.map(some, order.integers(len(source), size=(cores, BATCH))))
      yield BATCH * cores


def way(name):
  """Returns the generator function of a way."""
  return {
    'bare': bare,
    'bare-full': lambda *args: bare(*args, dct=False),
    'ours': ours,
    'ours-tar': lambda *args: ours(*args, kind='webdataset', name='tar'),
    'ours-parquet': lambda *args: ours(*args, kind='parquet', name='parquet'),
    'webdataset': webdataset,
    'grain': grain,
    'tfds': tfds,
  }[name]
