"""Images a second of a core: ours, the bare ceiling, and what others give.

    python benchmarks/data.py
    python benchmarks/data.py --pictures 256 --seconds 2 --ways bare,ours

JPEGs of about 87 kB (1,024 x 768 pixels of noise with the spectrum of
photographs, 1/f) are written once, as a TFDS dataset in ArrayRecord form and
as WebDataset tars. Then each way reads, decodes and resizes them to each size,
in a process of its own that is held to `--cores` cores, in turns; the fastest
of `--repeats` turns counts. All but `bare-full` decode JPEGs at the scale that
`data.dct_scaling` has, and make the same pixels.

Two figures: images a second of a core by the clock, and by the processor time
of all processes, which a busy machine disturbs less.

  bare         decode, crop and resize in a loop of Pillow's, the encoded bytes
               in memory, in one thread a core: the ceiling
  bare-full    the same, decoding JPEGs in full
  ours         `imagen_jax.data.loader`, all that training gets but text
  ours-tar     the same, of the tars
  ours-parquet the same, of Parquet with row groups of 100 rows
  webdataset   PyTorch's DataLoader over webdataset, a worker a core
  grain        grain over ArrayRecord, with its threads
  tfds         TFDS' own source of ArrayRecord, a thread a core (its tf.data
               does not read ArrayRecord)

Sizes: 64 and 256 are the largest centre square, resized; 1024 is a random
256-pixel crop of the picture at 1,024 pixels, with its counterpart at 64.
A way whose packages are not installed is left out, and named:

    pip install webdataset torch grain

gives those that this project does not depend on; any PyTorch will do. Last come
how many times as many images as another way's ours are.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import data_pictures
import data_ways
import numpy as np

WAYS = (
  *('bare', 'bare-full', 'ours', 'ours-tar', 'ours-parquet'),
  *('webdataset', 'grain', 'tfds'),
)
SIZES = (64, 256, 1024)
SIDES = {64: (1024, 768), 256: (1024, 768), 1024: (1536, 1152)}


def _processes():
  """Returns the numbers of this process and of all that it started."""
  found = [os.getpid()]
  for process in found:
    for children in pathlib.Path(f'/proc/{process}').glob('task/*/children'):
      found.extend(map(int, children.read_text().split()))
  return found


def _processor_seconds():
  """Returns the processor time of this process and of its children."""
  ticks = 0
  for process in _processes():
    stat = pathlib.Path(f'/proc/{process}/stat').read_text()
    # Its own, and that of children that have ended.
    ticks += sum(map(int, stat.rpartition(')')[2].split()[11:15]))
  return ticks / os.sysconf('SC_CLK_TCK')


def measure(name, folder, size, cores, seconds):
  """Prints images a second of a core of one way, by clock and processor."""
  numbers = data_ways.way(name)(folder, size, cores)
  for _ in range(4):  # What was ready, or being made, before the clock starts.
    next(numbers)
  count, start, used = 0, time.perf_counter(), _processor_seconds()
  while time.perf_counter() - start < seconds:
    count += next(numbers)
  by_clock = count / (time.perf_counter() - start) / cores
  print(by_clock, count / (_processor_seconds() - used), flush=True)
  # Workers would wait for ever, and whoever reads what they print with them.
  for process in _processes()[1:]:
    os.kill(process, signal.SIGKILL)
  os._exit(0)


def turn(args, name, folder, size):
  """Returns measurements of a process of its own; None without packages."""
  cores = ','.join(map(str, sorted(os.sched_getaffinity(0))[: args.cores]))
  done = subprocess.run(
    [
      *('taskset', '-c', cores, sys.executable, __file__),
      *('--measure', name, '--folder', folder, '--sizes', str(size)),
      *('--cores', str(args.cores), '--seconds', str(args.seconds)),
    ],
    capture_output=True,
    text=True,
  )
  if 'ModuleNotFoundError' in done.stderr:
    return None
  if done.returncode:
    raise RuntimeError(f'{name} at {size}:\n{done.stderr}')
  return tuple(map(float, done.stdout.split()[-2:]))


def main():
  """Prints a table: images a second of a core, and shares of the ceiling."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--pictures', type=int, default=1024)
  parser.add_argument('--seconds', type=float, default=10.0)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--cores', type=int, default=len(os.sched_getaffinity(0)))
  parser.add_argument('--sizes', default=','.join(map(str, SIZES)))
  parser.add_argument('--ways', default=','.join(WAYS))
  parser.add_argument('--measure', help=argparse.SUPPRESS)
  parser.add_argument('--folder', type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  sizes = [int(size) for size in args.sizes.split(',')]
  if args.measure:
    measure(args.measure, args.folder, sizes[0], args.cores, args.seconds)
  with tempfile.TemporaryDirectory() as root:
    for size in sizes:
      sides = SIDES[size]
      folder = pathlib.Path(root) / 'x'.join(map(str, sides))
      if not folder.exists():
        mean = data_pictures.write(folder, args.pictures, sides)
        print(f'{args.pictures} JPEGs of {sides}, {mean / 1000:.1f} kB')
      best = {}
      for _ in range(args.repeats):
        for name in args.ways.split(','):
          found = turn(args, name, folder, size)
          if found is not None:
            best[name] = np.maximum(found, best.get(name, (0.0, 0.0)))
      print('size way           by the clock      by processor time')
      for name in args.ways.split(','):
        if name not in best:
          print(f'{size:4} {name:13} its packages are not installed')
          continue
        shares = best[name] / best.get('bare', np.nan)
        columns = zip(best[name], shares)
        shown = (f'{value:9,.0f} ({share:4.0%})' for value, share in columns)
        print(f'{size:4} {name:13}', *shown, flush=True)
      for name in best:
        if 'ours' in best and not name.startswith(('ours', 'bare')):
          ratios = best['ours'] / best[name]
          shown = (f'{ratio:9.2f}       ' for ratio in ratios)
          print(f'{size:4} ours to {name:10}', *shown, flush=True)


if __name__ == '__main__':
  main()
