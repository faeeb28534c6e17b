"""A run on several processes of this machine, as hosts of a pod."""

import contextlib
import pathlib
import socket
import subprocess
import sys
import time

PATIENCE = 600  # Seconds until a hang is called one.


class Hosts:
  """The processes of a run, and what each has written to stderr."""

  def __init__(self, workdir, processes):
    self.workdir, self.processes = workdir, processes

  def said(self):
    """What each process has written to stderr."""
    return [
      pathlib.Path(f'{self.workdir}.{number}').read_text()
      for number in range(len(self.processes))
    ]

  def finish(self, patience=PATIENCE):
    """Waits for all that have not ended; returns all exit statuses."""
    deadline = time.monotonic() + patience
    return [
      process.wait(max(0.1, deadline - time.monotonic()))
      for process in self.processes
    ]

  def until(self, condition):
    """Returns when it holds; no process may end before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
      assert time.monotonic() < deadline, self.said()
      assert all(p.poll() is None for p in self.processes), self.said()
      time.sleep(0.1)

  def until_metrics(self):
    """Returns when the first line is written."""
    file = self.workdir / 'metrics.jsonl'
    self.until(lambda: file.exists() and file.read_text())


@contextlib.contextmanager
def started(
  tiny,
  workdir,
  *assignments,
  count=2,
  each=None,
  flags=(),
  program=('-m', 'imagen_jax'),
):
  """Starts all processes of a run, and lets none of them stay.

  Args:
    tiny: the config file.
    workdir: of the run; `WORKDIR.NUMBER` gets what a process says.
    *assignments: of the config.
    count: of processes.
    each: devices of one; None is so many that all have eight.
    flags: more of the command's.
    program: what Python runs.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  argv = ['--config', tiny, '--workdir', str(workdir), *flags]
  devices = f'mesh.simulated_devices={each or 8 // count}'
  fsdp = f'mesh.fsdp={each * count if each else 4}'
  for one in (devices, fsdp, *assignments):
    argv += ['--set', one]
  argv += ['--coordinator', address, '--num-processes', str(count)]
  with contextlib.ExitStack() as stack:
    processes = []
    for number in range(count):
      file = stack.enter_context(open(f'{workdir}.{number}', 'w'))
      process = subprocess.Popen(
        [*(sys.executable, *program, 'train', *argv)]
        + ['--process-id', str(number)],
        stderr=file,
      )
      stack.callback(process.wait)
      stack.callback(process.kill)
      processes.append(process)
    yield Hosts(workdir, processes)
