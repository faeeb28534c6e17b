"""Seconds until the first batch, at step 0 and after a resume far from it.

    python benchmarks/resume.py
    python benchmarks/resume.py --step 1000000 --pictures 256 --rows 64

Writes JPEGs in every form, as `benchmarks/data.py` does, and opens a loader of
each at either step, in turns, in this process; the median of `--repeats` turns
counts. The loader alone is timed: TensorFlow is there, the task is known.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import data_pictures

KINDS = {
  'tfds': 'tfds',
  'webdataset': 'tar',
  'parquet': 'parquet',
  'folder': 'pictures',
}


def seconds(config, rows, step):
  """Returns how long the first batch of a step takes."""
  from imagen_jax.data import loader

  start = time.perf_counter()
  with loader.training_batches(
    config, rows=range(rows), store=None, start_step=step
  ) as batches:
    next(batches)
    return time.perf_counter() - start


def main():
  """Prints a row for each kind of source."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--step', type=int, default=1_000_000)
  parser.add_argument('--pictures', type=int, default=256)
  parser.add_argument('--rows', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=5)
  args = parser.parse_args()

  from imagen_jax import config as config_lib

  unet = config_lib.UNetConfig(
    channels=(32,),
    num_res_blocks=(1,),
    self_attention=(False,),
    text_attention=(False,),
  )
  with tempfile.TemporaryDirectory() as root:
    folder = pathlib.Path(root) / 'pictures'
    data_pictures.write(folder, args.pictures, (1024, 768))
    data_pictures.index(folder, 'folder', 'pictures')
    print(f'kind          step 0, s   step {args.step:,}, s', flush=True)
    for kind, name in KINDS.items():
      config = config_lib.Config(
        stage=config_lib.StageConfig(image_size=64, unet=unet),
        data=config_lib.DataConfig(
          tasks=(data_pictures.task(folder, kind, name),)
        ),
        train=config_lib.TrainConfig(batch_size=args.rows),
      )
      seconds(config, args.rows, 0)  # Opens the files, and warms TensorFlow.
      found = {0: [], args.step: []}
      for _ in range(args.repeats):
        for step, times in found.items():
          times.append(seconds(config, args.rows, step))
      medians = map(statistics.median, found.values())
      shown = (f'{median:10.2f}' for median in medians)
      print(f'{kind:12}', *shown, flush=True)


if __name__ == '__main__':
  main()
