r"""Measures that a run's numbers are the same on every mesh.

    python benchmarks/meshes.py

The three stages of `configs/`, with their designs, losses and optimisers, at a
few pixels and channels and in float32, take some training steps on one
simulated device, and the same ones on every mesh of eight: copies of the model,
its state in shards, its channels split, all of these, images split by rows and
columns, two slices as DCN would join them, and four or eight processes that
exchange what they have by sockets. Prints a table in Markdown: the largest
difference of a loss, of its size on one device; and the norm of the difference
of all parameters, of the norm of what the steps changed. Ends with status 1
where one is above the tolerance.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

# What is compared is the partitioning, not the machine code; and a crowded
# machine may keep devices waiting for each other.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 '
  '--xla_cpu_collective_call_terminate_timeout_seconds=600',
)

# After the flags, which JAX reads once.
from imagen_jax import config as config_lib
from imagen_jax.cli import devices as devices_lib

REPO = pathlib.Path(__file__).resolve().parent.parent
DEVICES = 8
_MEASURED = ('loss', 'parameters')

# What the stages of the paper are made small by.
SMALL = (
  'stage.unet.channels=[16, 32]',
  'stage.unet.num_res_blocks=[1, 1]',
  'stage.unet.embed_dim=32',
  'stage.unet.head_dim=8',
  'stage.unet.num_groups=4',
  'stage.unet.dtype=float32',
  'stage.unet.text_attention=[false, true]',
  'text.max_length=6',
  'train.batch_size=8',
  'optimizer.warmup_steps=0',
  'optimizer.learning_rate=0.001',
)
STAGES = {
  'base64': ('stage.unet.self_attention=[false, true]', 'stage.image_size=16'),
  'sr256': (
    'stage.unet.self_attention=[false, true]',
    'stage.image_size=16',
    'stage.lowres_size=4',
  ),
  'sr1024': (
    'stage.unet.self_attention=[false, false]',
    'stage.image_size=16',
    'stage.lowres_size=4',
    'stage.whole_size=64',
  ),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """A mesh of the table.

  Attributes:
    layout: of its devices.
    processes: that have them.
    slices: that they lie in.
  """

  layout: config_lib.MeshConfig
  processes: int = 1
  slices: int = 1


_Mesh = config_lib.MeshConfig
ROWS = {
  'data 8': Row(_Mesh(8, 1, 1)),
  'fsdp 8': Row(_Mesh(1, 8, 1)),
  'model 8': Row(_Mesh(1, 1, 8)),
  'data 2, fsdp 2, model 2': Row(_Mesh(2, 2, 2)),
  'data 2, rows over fsdp 4': Row(_Mesh(2, 4, 1, height='fsdp')),
  'rows over fsdp 2, columns over data 2, model 2': Row(
    _Mesh(2, 2, 2, height='fsdp', width='data')
  ),
  '2 slices: data 4, fsdp 2': Row(_Mesh(4, 2, 1), slices=2),
  '4 processes: data 2, fsdp 2, model 2': Row(_Mesh(2, 2, 2), 4),
  '8 processes: data 2, fsdp 2, model 2': Row(_Mesh(2, 2, 2), 8),
}
ALONE = Row(_Mesh(1, 1, 1))


def config_of(stage: str) -> config_lib.Config:
  """The stage's config, made small."""
  config = config_lib.load(str(REPO / 'configs' / f'{stage}.py'))
  return config_lib.override(config, [*SMALL, *STAGES[stage]])


def mesh_of(row: Row):
  """The mesh of a row; its slices have every so-many-th device."""
  import jax
  import numpy as np

  from imagen_jax import sharding

  count = row.layout.data * row.layout.fsdp * row.layout.model
  devices = jax.devices()[:count]
  if row.slices == 1:
    return sharding.make_mesh(row.layout, devices)

  @dataclasses.dataclass(frozen=True)
  class InSlice:
    """A device that says of which slice it is, as those of a TPU do."""

    device: jax.Device
    slice_index: int

    def __getattr__(self, name):
      return getattr(self.device, name)

  told = [InSlice(each, n % row.slices) for n, each in enumerate(devices)]
  mesh = sharding.make_mesh(row.layout, told)
  grid = np.vectorize(lambda each: each.device, otypes=[object])(mesh.devices)
  return jax.sharding.Mesh(grid, mesh.axis_names, axis_types=mesh.axis_types)


def batch_of(config: config_lib.Config, step: int):
  """A step's whole batch, of random pictures and captions of all lengths."""
  import numpy as np

  from imagen_jax import structs

  rng = np.random.default_rng(step)
  size, stage, text = config.train.batch_size, config.stage, config.text
  normal = lambda *shape: np.float32(rng.normal(size=shape))
  image = lambda pixels: np.tanh(normal(size, pixels, pixels, 3))
  lengths = np.arange(size)[:, None] % (text.max_length + 1)
  mask = np.arange(text.max_length) < lengths
  embed = normal(size, text.max_length, text.embed_dim) * mask[..., None]
  lowres = image(stage.lowres_size) if stage.lowres_size else None
  return structs.Batch(
    image(stage.image_size), structs.TextCond(embed, mask), lowres
  )


def measure(stage: str, row: Row, steps: int) -> dict:
  """Losses of the steps, and parameters before and after, one after another."""
  import jax
  import numpy as np

  from imagen_jax import sharding
  from imagen_jax.train import optimizer
  from imagen_jax.train import state as state_lib
  from imagen_jax.train import step as step_lib

  config, layout = config_of(stage), row.layout
  config = dataclasses.replace(config, mesh=layout)
  mesh = mesh_of(row)
  tx = optimizer.make_optimizer(config)
  shardings = state_lib.state_shardings(config, tx, mesh)
  rows = sharding.local_rows(mesh, config.train.batch_size, layout)
  with sharding.use_mesh(mesh, layout):
    whole = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    flat = lambda params: np.concatenate(
      [np.ravel(leaf) for leaf in jax.tree.leaves(whole(params))]
    )
    state = state_lib.init_state(config, tx, shardings)
    before, losses = flat(state.params), []
    step = step_lib.compile_step(config, tx, shardings, mesh)
    for number in range(steps):
      batch = jax.tree.map(lambda x: x[rows], batch_of(config, number))
      state, metrics = step(state, sharding.put_batch(batch, mesh, layout))
      losses.append(float(metrics['loss']))
    after = flat(state.params)
  return {'losses': np.array(losses), 'before': before, 'after': after}


def differences(found: dict, alone: dict) -> tuple[float, float]:
  """Of losses, the largest of its own size; of parameters, of their change."""
  import numpy as np

  losses = np.abs(found['losses'] / alone['losses'] - 1).max()
  change = np.linalg.norm(alone['after'] - alone['before'])
  apart = np.linalg.norm(found['after'] - alone['after'])
  return float(losses), float(apart / change)


def work(stages, rows, steps, count, number, address, out):
  """One of several processes: measures, and the first writes it down."""
  import numpy as np

  devices_lib.start(
    DEVICES // count,
    coordinator=address,
    num_processes=count,
    process_id=number,
  )
  for place, (stage, row) in enumerate((s, r) for s in stages for r in rows):
    found = measure(stage, ROWS[row], steps)
    if number == 0:
      np.savez(f'{out}/{place}.npz', **found)


def by_processes(stages, rows, steps, count) -> dict:
  """What several processes measure together, by stage and row."""
  import numpy as np

  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  with tempfile.TemporaryDirectory() as out:
    given = [stages, rows, steps, count]
    started = [
      subprocess.Popen(
        [sys.executable, __file__, '--work']
        + [json.dumps([*given, number, address, out])]
      )
      for number in range(count)
    ]
    try:
      failed = [process.wait() for process in started]
    finally:
      for process in started:
        process.kill()
    if any(failed):
      raise SystemExit(f'{count} processes ended with {failed}')
    pairs = [(stage, row) for stage in stages for row in rows]
    return {
      pair: dict(np.load(f'{out}/{place}.npz'))
      for place, pair in enumerate(pairs)
    }


def table(stages: list[str], rows: list[str], found: dict) -> str:
  """The differences, by stage and row, as a table in Markdown."""
  head = ['mesh', *(f'{each}: {n}' for each in stages for n in _MEASURED)]
  lines = [head, ['---', *['---:'] * (len(head) - 1)]]
  for row in rows:
    numbers = [n for stage in stages for n in found[stage, row]]
    lines.append([row, *(f'{n:.1e}' for n in numbers)])
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def main() -> int:
  """Measures the rows that are asked for; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--steps', type=int, default=5, metavar='N')
  parser.add_argument('--tolerance', type=float, default=1e-4, metavar='X')
  parser.add_argument('--stages', nargs='+', default=list(STAGES))
  parser.add_argument('--rows', nargs='+', default=list(ROWS))
  parser.add_argument('--work', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    work(*json.loads(args.work))
    return 0
  for name, given, known in (
    ('--stages', args.stages, STAGES),
    ('--rows', args.rows, ROWS),
  ):
    if unknown := set(given) - set(known):
      raise SystemExit(f'{name} {sorted(unknown)}; accepted: {list(known)}')
  devices_lib.start(DEVICES)
  measured = {}
  for count in sorted({ROWS[row].processes for row in args.rows} - {1}):
    there = [row for row in args.rows if ROWS[row].processes == count]
    measured |= by_processes(args.stages, there, args.steps, count)
  found = {}
  for stage in args.stages:
    alone = measure(stage, ALONE, args.steps)
    for row in args.rows:
      one = measured.get((stage, row)) or measure(stage, ROWS[row], args.steps)
      found[stage, row] = differences(one, alone)
      # Which a crowded machine takes minutes for.
      told = ', '.join(f'{n:.1e}' for n in found[stage, row])
      print(f'{stage}, {row}: {told}', file=sys.stderr, flush=True)
  print(table(args.stages, args.rows, found))
  most = max(n for numbers in found.values() for n in numbers)
  print(f'\n{args.steps} steps; the largest is {most:.1e}', end=', ')
  print(f'and {args.tolerance:g} is accepted')
  return int(not most <= args.tolerance)


if __name__ == '__main__':
  sys.exit(main())
