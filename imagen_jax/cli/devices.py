"""Starts JAX for a command: simulated devices, and the hosts of a pod."""

import argparse
import contextlib
import glob
import importlib.util
import os
import pathlib
import re
import sys
import traceback

from imagen_jax.cli import mistakes

# How the chips of one host lie, as libtpu wants it said, by their number.
_CHIP_BOUNDS = {1: '1,1,1', 2: '1,2,1', 4: '2,2,1', 8: '2,4,1'}

# Seconds without a sign of life after which a host is taken for dead.
DEAD_AFTER = 60

# The exit status of a host that ends because another one did: EX_TEMPFAIL.
OTHERS_GONE = 75

# Seconds that a host which fails waits for others that do so, too.
_LEAVE = 10


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
  parser.add_argument(
    '--dead-after',
    type=int,
    metavar='SECONDS',
    default=DEAD_AFTER,
    help='where a host has given no sign of life for so long, the others end '
    f'({DEAD_AFTER})',
  )


def start(
  simulated_devices: int = 0,
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  dead_after: int = DEAD_AFTER,
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
    dead_after: seconds without a sign of life of a host, which a thread of
      JAX's gives whatever else the host does, after which the others end.
    alone: do not wait for the other hosts of a pod, as this command runs on
      one of them.

  Raises:
    ValueError: where only some of the three that say who is who are given, or
      `dead_after` is below 1.
  """
  import jax

  explicit = (coordinator, num_processes, process_id)
  if None in explicit and explicit != (None,) * 3:
    raise ValueError(
      '--coordinator, --num-processes and --process-id go together; '
      f'got {explicit}'
    )
  if dead_after < 1:
    raise ValueError(f'--dead-after is {dead_after}; accepted: 1 or more')
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
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=dead_after,
    )
  elif not simulated_devices and (chips := _num_tpu_chips()):
    if not alone:
      jax.distributed.initialize(heartbeat_timeout_seconds=dead_after)
    elif chips in _CHIP_BOUNDS:
      # Or libtpu itself waits for the hosts of the slice, whatever JAX does.
      os.environ.setdefault('TPU_PROCESS_BOUNDS', '1,1,1')
      os.environ.setdefault('TPU_CHIPS_PER_PROCESS_BOUNDS', _CHIP_BOUNDS[chips])


@contextlib.contextmanager
def together():
  """Where what is done within fails on one of several hosts, all end soon.

  To end in the usual way is to wait for the others, minutes long, while they
  wait for what this one was to compute. So the process is ended as soon as it
  has said why: with status 2 for a mistake that a person can mend, as one
  process does, and with `OTHERS_GONE` for anything else, after which the same
  command may be run again. Those that fail alike meet before they end; who does
  not come has died, or hangs, and is named.
  """
  try:
    yield
  except FloatingPointError:
    raise  # Which all hosts meet alike, at the same step.
  except Exception as error:
    state = _state()
    if state is None:
      raise
    message = mistakes.told(error)
    if message is None or os.environ.get(mistakes.TRACEBACK_VARIABLE):
      traceback.print_exc()
    if message is not None:
      print(f'imagen-jax: {message}', file=sys.stderr, flush=True)
    if missing := _missing(state):
      print(f'imagen-jax: {missing}', file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(OTHERS_GONE if message is None else 2)


def _state():
  """JAX's state of the hosts that there are; None where this is the only one.

  What `jax.distributed` offers of it cannot be waited for within bounds.
  """
  from jax._src import distributed

  state = distributed.global_state
  return state if state.client is not None and state.num_processes > 1 else None


def _missing(state):
  """A line about hosts that do not fail as this one does; None for none."""
  try:
    state.client.wait_at_barrier('imagen_jax_leave', 1000 * _LEAVE)
  except Exception as error:  # Whatever JAX's service makes of it.
    numbers = _named(str(error)) - {state.process_id}
    # Who asks is told by the service, which is of the first host.
    who = 'host 0' if state.process_id else 'another host'
    if numbers:
      who = f'host {", ".join(map(str, sorted(numbers)))}'
    return (
      f'host {state.process_id} ends, as there is no word of {who}, which '
      f'has died, or hangs ({" ".join(str(error).split())[:300]})'
    )
  return None


def _named(told):
  """Numbers of the hosts that JAX's service misses, by what it has told."""
  numbers = set(re.findall(r'\bTask (\d+) heartbeat timeout', told))
  # After these words, one a line; before them it may name one that is there.
  for words in ('timed out task names:', 'stopped sending heartbeats):'):
    for line in told.partition(words)[2].strip().splitlines():
      if not (found := re.fullmatch(r'(?:\S*task:)?(\d+)', line.strip())):
        break
      numbers.add(found[1])
  return set(map(int, numbers))


def _num_tpu_chips():
  """TPU chips of this machine; 0 where no library is there to drive them."""
  chips = glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*')
  return len(chips) if importlib.util.find_spec('libtpu') else 0
