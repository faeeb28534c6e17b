"""A command in a process of its own, begun quickly.

A server that has imported what a run takes forks one process a command, where
to start Python and to import JAX and TensorFlow takes six seconds.
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


def _child(argv, log, before):
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  for stream in (1, 2):
    os.dup2(file, stream)
  import jax

  import imagen_jax
  from imagen_jax.cli import main

  # As of `python -m imagen_jax`, for what the command says of itself.
  program = os.path.join(os.path.dirname(imagen_jax.__file__), '__main__.py')
  sys.argv = [program, *argv]
  try:
    exec(before, {})
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


def start(ctx, argv: list[str], log: str, before: str = ''):
  """Starts `imagen-jax *argv`, which adds what it says to the file `log`.

  Args:
    ctx: of `context`.
    argv: the command's.
    log: a file's name.
    before: Python that the process runs before the command.
  """
  process = ctx.Process(target=_child, args=(argv, log, before))
  process.start()
  return process
