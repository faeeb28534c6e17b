"""Host memory while an encoder is restored into shards, measured.

    python benchmarks/restore_memory.py --encoder t5_1_1_xl

Writes a synthetic T5X checkpoint of that encoder, then restores it in four
processes of two simulated devices each, as four hosts of a pod: a mesh of
fsdp 4 and model 2, so that each process holds a quarter. In each process,
after all imports, `jax.distributed` and the devices are up and the shardings
are known, the kernel's peak of resident memory is reset (5 into
/proc/self/clear_refs) and VmRSS is read: the baseline. After restoring, VmHWM
less the baseline is the peak. It has to be below the bytes of the process's
shards and 1 GiB. Resident memory includes the shards themselves, since
simulated devices live in host memory, and whatever the allocator keeps.

Exits with 1 where a process took more, or its shards hold other numbers than
the checkpoint. Linux only.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

PROCESSES = 4
DEVICES = 2  # Of each.
LIMIT = 2**30  # Bytes beyond the shards.


def status(field):
  """Returns a field of /proc/self/status in bytes."""
  with open('/proc/self/status') as file:
    for line in file:
      if line.startswith(field + ':'):
        return int(line.split()[1]) * 1024
  raise KeyError(field)


def worker(folder, encoder, dtype, address, number):
  """Restores as one of the hosts, and prints what it took as JSON."""
  import jax

  jax.config.update('jax_num_cpu_devices', DEVICES)
  jax.distributed.initialize(address, PROCESSES, number)

  import numpy as np

  from imagen_jax import config
  from imagen_jax import sharding
  from imagen_jax.text import encoders
  from imagen_jax.text import layouts
  from imagen_jax.text import restore

  boxed = encoders.abstract_params(encoders.get(encoder))
  mesh = sharding.make_mesh(config.MeshConfig(fsdp=4, model=2))
  wanted = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place),
    sharding.unbox(boxed),
    sharding.param_shardings(boxed, mesh),
  )
  jax.device_put(np.zeros(8), jax.local_devices()[0]).block_until_ready()
  with open('/proc/self/clear_refs', 'w') as file:
    file.write('5')
  baseline = status('VmRSS')
  start = time.perf_counter()
  params = restore.restore_encoder(folder, wanted, name=encoder)
  jax.block_until_ready(params)
  seconds = time.perf_counter() - start
  peak = status('VmHWM') - baseline
  after = status('VmRSS') - baseline

  held = [
    shard
    for leaf in jax.tree.leaves(params)
    for shard in leaf.addressable_shards
  ]
  stored = layouts.open_checkpoint(folder)
  for path, leaf in jax.tree.leaves_with_path(params):
    name = '/'.join(key.key for key in path)
    if 'layers_' in name and 'layers_1/' not in name:
      continue  # One layer tells of the rest.
    shard = leaf.addressable_shards[-1]
    expected = stored[name].read(shard.index)
    np.testing.assert_array_equal(shard.data, expected.astype(dtype), name)
  print(
    json.dumps(
      {
        'process': number,
        'shards': sum(shard.data.nbytes for shard in held),
        'baseline': baseline,
        'peak': peak,
        'after': after,
        'seconds': seconds,
      }
    ),
    flush=True,
  )


def measure(folder, encoder, dtype) -> list[dict]:
  """Runs all processes; returns what each printed.

  Raises:
    RuntimeError: where one failed, with what it said.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, __file__, '--folder', str(folder)]
  command += ['--encoder', encoder, '--dtype', dtype, '--address', address]
  running = [
    subprocess.Popen(
      [*command, '--process', str(number)],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(PROCESSES)
  ]
  try:
    said = [process.communicate() for process in running]
  finally:
    for process in running:
      process.kill()
  for process, (_, errors) in zip(running, said):
    if process.returncode:
      raise RuntimeError(errors[-3000:])
  return [json.loads(out.splitlines()[-1]) for out, _ in said]


def main():
  """Writes, restores, prints a table; exits with 1 beyond the limit."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--encoder', default='t5_1_1_xl')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--folder', help='made there, and kept')
  parser.add_argument('--address', help=argparse.SUPPRESS)
  parser.add_argument('--process', type=int, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.process is not None:
    worker(args.folder, args.encoder, args.dtype, args.address, args.process)
    return

  import synthetic_checkpoint

  from imagen_jax.text import encoders

  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(args.folder or scratch) / 'checkpoint_1'
    row = encoders.get(args.encoder)
    if not (folder / 'checkpoint').exists():  # Written last.
      synthetic_checkpoint.write(folder, row)
    found = measure(folder, args.encoder, args.dtype)
  size = sum(each['shards'] for each in found)
  print(
    f'{args.encoder}, {args.dtype}: {size / 2**30:.2f} GiB of shards in '
    f'{PROCESSES} processes (replicas counted)'
  )
  print('| process | shards GiB | peak GiB | beyond the shards | seconds |')
  print('| --- | --- | --- | --- | --- |')
  for each in found:
    shards, peak = each['shards'] / 2**30, each['peak'] / 2**30
    print(
      f'| {each["process"]} | {shards:.3f} | {peak:.3f} | '
      f'{peak - shards:.3f} | {each["seconds"]:.1f} |'
    )
  worst = max(each['peak'] - each['shards'] for each in found)
  verdict = 'under' if worst < LIMIT else 'OVER'
  print(f'at most {worst / 2**30:.3f} GiB beyond the shards: {verdict} 1 GiB')
  sys.exit(worst >= LIMIT)


if __name__ == '__main__':
  main()
