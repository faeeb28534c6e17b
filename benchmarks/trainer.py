r"""What the training loop costs beside the jitted step; what saves hold up.

    python benchmarks/trainer.py --quickstart quickstart
    python benchmarks/trainer.py --quickstart quickstart --restore-channels 512

takes data and embeddings from what `bash launch/quickstart.sh` left, and its
base stage, and prints a table in Markdown:

- Seconds a step: the jitted step alone, on one batch that lies on the device; a
  bare loop, which takes batches of the loader and steps, and no more; and
  `imagen-jax train`, with its metrics, between two of its lines and none of its
  saves. Here the loader and the step share the processors; on a pod the step
  has chips to itself. So the loop's overhead is that over the bare loop. The
  three take turns, and the median of the rounds counts.
- What an asynchronous save holds up: the seconds that the loop waits for one,
  over those of a step.
- Bytes a second of a restore, with and without the check of its digests, beside
  TensorStore's read of the same arrays alone; files in the page cache, the
  fastest of the rounds. The state is of a wider net: `--restore-channels`.
- Seconds from the command to the end of the first step, as the run's first line
  of metrics has it: with an empty compilation cache, and with a full one.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
CONFIG = 'configs/tiny_base.py'
WARM = 20  # Steps before any is measured.


def places(quickstart):
  """`--set` of the quickstart's data."""
  return [
    f'data.tasks.shapes.path={quickstart}/data/shapes',
    f'data.tasks.openmoji.path={quickstart}/data/openmoji',
    f'text.store={quickstart}/embeddings',
  ]


def command(quickstart, workdir, cache, *fields):
  """Runs `imagen-jax train`; returns when it began, and its metrics."""
  flags = ['--config', CONFIG, '--workdir', str(workdir)]
  for field in (*places(quickstart), *fields):
    flags += ['--set', field]
  begun = time.time()
  subprocess.run(
    [sys.executable, '-m', 'imagen_jax', 'train', *flags],
    cwd=REPO,
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(cache)},
    stderr=subprocess.DEVNULL,
    check=True,
  )
  text = (workdir / 'metrics.jsonl').read_text()
  return begun, [json.loads(line) for line in text.splitlines()]


def train_seconds(quickstart, workdir, cache, steps):
  """Seconds a step of the command, of two lines `steps` steps apart."""
  # A line at the end of a window of its own: the first has what compiling took.
  fields = [
    f'train.num_steps={2 * steps + 1}',
    f'train.log_every={steps}',
    *('train.sample_every=1000000', 'train.eval_every=1000000'),
    'train.checkpoint_every=1000000',
  ]
  _, lines = command(quickstart, workdir, cache, *fields)
  at = {line['step']: line['time'] for line in lines}
  return (at[2 * steps] - at[steps]) / steps


class Bare:
  """The same step without the loop, in this process."""

  def __init__(self, quickstart):
    """Compiles the step, and opens the loader."""
    from imagen_jax import config as config_lib
    from imagen_jax import sharding
    from imagen_jax.data import loader
    from imagen_jax.train import opening
    from imagen_jax.train import optimizer
    from imagen_jax.train import state as state_lib
    from imagen_jax.train import step as step_lib

    self._config = config_lib.override(
      config_lib.load(CONFIG), places(quickstart)
    )
    self._mesh = sharding.make_mesh(self._config.mesh)
    tx = optimizer.make_optimizer(self._config)
    shardings = state_lib.state_shardings(self._config, tx, self._mesh)
    with sharding.use_mesh(self._mesh, self._config.mesh):
      self._state = state_lib.init_state(self._config, tx, shardings)
      self._step = step_lib.compile_step(
        self._config, tx, shardings, self._mesh
      )
    self._loader = loader.training_batches(
      self._config,
      rows=range(self._config.train.batch_size),
      store=opening.open_store(self._config),
    )
    for _ in range(WARM):
      self._take(self._put(next(self._loader)))

  def _put(self, rows):
    from imagen_jax import sharding
    from imagen_jax import structs

    batch = structs.Batch.of(rows)
    return sharding.put_batch(batch, self._mesh, self._config.mesh)

  def _take(self, batch):
    from imagen_jax import sharding

    with sharding.use_mesh(self._mesh, self._config.mesh):
      self._state, metrics = self._step(self._state, batch)
    return metrics

  def alone(self, steps):
    """Seconds a step, of a batch that lies on the device."""
    import jax

    batch = self._put(next(self._loader))
    # What is prepared ahead takes processors until it is.
    time.sleep(1)
    begun = time.perf_counter()
    for _ in range(steps):
      metrics = self._take(batch)
    jax.block_until_ready(metrics)
    return (time.perf_counter() - begun) / steps

  def with_loader(self, steps):
    """Seconds a step, of the loader's batches; one step is on its way."""
    import jax

    previous = None
    begun = time.perf_counter()
    for _ in range(steps):
      metrics = self._take(self._put(next(self._loader)))
      jax.block_until_ready(previous)
      previous = metrics
    jax.block_until_ready(previous)
    return (time.perf_counter() - begun) / steps

  def close(self):
    """Stops the loader."""
    self._loader.close()


def saves(quickstart, workdir, cache, steps, count):
  """Seconds that a save holds the loop up, in the mean of `count`."""
  fields = [
    f'train.num_steps={steps * (count + 1)}',
    f'train.log_every={steps}',
    f'train.checkpoint_every={steps}',
    *('train.sample_every=1000000', 'train.eval_every=1000000'),
  ]
  _, lines = command(quickstart, workdir, cache, *fields)
  # A save comes after the line of its step, and counts in the next. The last
  # one is waited for; it is in no line.
  held = [line['save_wait_seconds'] for line in lines[1 : count + 1]]
  return statistics.fmean(held)


def restores(channels, folder, rounds):
  """Gigabytes of a state, and the least seconds to read it in three ways."""
  import jax
  import tensorstore as ts

  from imagen_jax import config as config_lib
  from imagen_jax import sharding
  from imagen_jax.train import checkpoint
  from imagen_jax.train import optimizer
  from imagen_jax.train import parts
  from imagen_jax.train import state as state_lib

  config = config_lib.override(
    config_lib.load(CONFIG), [f'stage.unet.channels=[{channels}]']
  )
  mesh = sharding.make_mesh(config.mesh)
  tx = optimizer.make_optimizer(config)
  shardings = state_lib.state_shardings(config, tx, mesh)
  with (
    sharding.use_mesh(mesh, config.mesh),
    checkpoint.Checkpointer(str(folder), config=config) as checkpointer,
  ):
    state = state_lib.init_state(config, tx, shardings)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(parts.of(state)))
    checkpointer.save(state, {}, config, {})
    checkpointer.wait()
    abstract = state_lib.abstract_state(config, tx, shardings)
    del state
    base = {
      'driver': 'ocdbt',
      'base': f'file://{folder}/{checkpoint.CHECKPOINTS}/0/state/',
    }
    names = ts.KvStore.open(base).result().list().result()
    arrays = {
      name.decode().removesuffix('/.zarray')
      for name in names
      if name.endswith(b'/.zarray')
    }

    def bare():
      kept = [
        ts.open(
          {'driver': 'zarr', 'kvstore': {**base, 'path': f'{name}/'}},
          open=True,
          context=context,
        )
        for name in sorted(arrays)
      ]
      read = [opened.result().read() for opened in kept]
      assert sum(array.result().nbytes for array in read) == size

    def ours():
      return jax.block_until_ready(checkpointer.restore(0, abstract))

    def checked():
      said = checkpointer.said(0)
      said.check(parts.digests_of(*ours()))

    found = {'bare': [], 'ours': [], 'checked': []}
    for _ in range(rounds):
      for name, way in (('bare', bare), ('ours', ours), ('checked', checked)):
        # Of its own, so that nothing is in TensorStore's cache.
        context = ts.Context()
        begun = time.perf_counter()
        way()
        found[name].append(time.perf_counter() - begun)
  return size / 1e9, {name: min(seconds) for name, seconds in found.items()}


def first_step(quickstart, workdir, cache):
  """Seconds from the command to the line of its first step."""
  fields = ['train.num_steps=1', 'train.log_every=1']
  begun, lines = command(quickstart, workdir, cache, *fields)
  return lines[0]['time'] - begun


def main():
  """Measures, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--quickstart', required=True, metavar='DIR')
  parser.add_argument('--steps', type=int, default=200, metavar='N')
  parser.add_argument('--rounds', type=int, default=3, metavar='N')
  parser.add_argument('--saves', type=int, default=5, metavar='N')
  parser.add_argument('--restore-channels', type=int, default=512, metavar='C')
  args = parser.parse_args()
  os.chdir(REPO)
  quickstart = pathlib.Path(args.quickstart).resolve()
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    cache = scratch / 'cache'
    cold = first_step(quickstart, scratch / 'cold', cache)
    warm = first_step(quickstart, scratch / 'warm', cache)
    bare = Bare(quickstart)
    alone, looped, trained = [], [], []
    for number in range(args.rounds):
      workdir = scratch / f'train-{number}'
      alone.append(bare.alone(args.steps))
      looped.append(bare.with_loader(args.steps))
      trained.append(train_seconds(quickstart, workdir, cache, args.steps))
    bare.close()
    held = saves(quickstart, scratch / 'saves', cache, args.steps, args.saves)
    size, read = restores(args.restore_channels, scratch / 'state', args.rounds)
  alone, looped, trained = map(statistics.median, (alone, looped, trained))
  rate = {name: size / seconds for name, seconds in read.items()}
  print(f"""
| | | |
| --- | ---: | ---: |
| a step, jitted, alone | {1e3 * alone:.2f} ms | |
| a bare loop with the loader | {1e3 * looped:.2f} ms | |
| `imagen-jax train` | {1e3 * trained:.2f} ms | {trained / looped - 1:+.1%} |
| held up by a save | {1e3 * held:.1f} ms | {held / trained:.2f} of a step |
| TensorStore's read of {size:.2f} GB | {rate['bare']:.2f} GB/s | |
| restored | {rate['ours']:.2f} GB/s | {read['bare'] / read['ours']:.0%} |
| restored, digests checked | {rate['checked']:.2f} GB/s | \
{read['bare'] / read['checked']:.0%} |
| command to the first step, cold | {cold:.1f} s | |
| the same, compiled before | {warm:.1f} s | |""")


if __name__ == '__main__':
  main()
