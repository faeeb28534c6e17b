"""A run in a process that a fault is to meet, begun quickly.

A server that has imported what a run takes forks one process a run.
"""

import multiprocessing
import os
import sys

PRELOADED = (
  'fault_run',
  'imagen_jax.cli.main',
  'imagen_jax.cli.train',
  'imagen_jax.train.loop',
)


def _child(argv, log):
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  for stream in (1, 2):
    os.dup2(file, stream)
  import jax

  from imagen_jax.cli import main

  try:
    sys.exit(main.main(argv))
  finally:
    # What JAX has any other process do as it ends, to wait for the others: one
    # of multiprocessing's ends without.
    jax.distributed.shutdown()


def context():
  """A context of multiprocessing whose server knows how to run."""
  found = multiprocessing.get_context('forkserver')
  found.set_forkserver_preload(list(PRELOADED))
  return found


def start(ctx, argv: list[str], log: str):
  """Starts `imagen-jax *argv`, which adds what it says to the file `log`."""
  process = ctx.Process(target=_child, args=(argv, log))
  process.start()
  return process
