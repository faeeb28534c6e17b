"""Starts JAX for a command: simulated devices, and the hosts of a pod."""

import argparse
import glob
import importlib.util
import os
import pathlib

# How the chips of one host lie, as libtpu wants it said, by their number.
_CHIP_BOUNDS = {1: '1,1,1', 2: '1,2,1', 4: '2,2,1', 8: '2,4,1'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags that say which hosts there are; see `start`."""
  parser.add_argument(
    '--coordinator',
    metavar='HOST:PORT',
    help='address of process 0, where hosts cannot find each other',
  )
  parser.add_argument(
    '--num-processes', type=int, metavar='N', help='how many there are'
  )
  parser.add_argument(
    '--process-id', type=int, metavar='I', help='which one this is, from 0'
  )


def start(
  simulated_devices: int = 0,
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  alone: bool = False,
):
  """Configures JAX; to be called before anything computes.

  Compiled programs are kept in `~/.cache/imagen_jax/xla`, or where
  JAX_COMPILATION_CACHE_DIR says.

  Args:
    simulated_devices: CPU devices to simulate in this process; 0 for none.
    coordinator: host:port of process 0; None on a TPU pod, whose hosts find
      each other, and on one host.
    num_processes: of the run; with `coordinator`.
    process_id: of this process, from 0; with `coordinator`.
    alone: do not wait for the other hosts of a pod, as this command runs on
      one of them.

  Raises:
    ValueError: where only some of the last three are given.
  """
  import jax

  explicit = (coordinator, num_processes, process_id)
  if None in explicit and explicit != (None,) * 3:
    raise ValueError(
      '--coordinator, --num-processes and --process-id go together; '
      f'got {explicit}'
    )
  if simulated_devices:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', simulated_devices)
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = pathlib.Path.home() / '.cache' / 'imagen_jax' / 'xla'
    jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  if coordinator and simulated_devices:
    # On CPUs the programs of the processes differ, and JAX keeps those of
    # process 0 alone. Found ready, they would have it wait at the first
    # exchange for longer than the 30 seconds that Gloo, which makes it, allows.
    jax.config.update('jax_enable_compilation_cache', False)
  if coordinator:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  elif not simulated_devices and (chips := _num_tpu_chips()):
    if not alone:
      jax.distributed.initialize()
    elif chips in _CHIP_BOUNDS:
      # Or libtpu itself waits for the hosts of the slice, whatever JAX does.
      os.environ.setdefault('TPU_PROCESS_BOUNDS', '1,1,1')
      os.environ.setdefault('TPU_CHIPS_PER_PROCESS_BOUNDS', _CHIP_BOUNDS[chips])


def _num_tpu_chips():
  """TPU chips of this machine; 0 where no library is there to drive them."""
  chips = glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*')
  return len(chips) if importlib.util.find_spec('libtpu') else 0
