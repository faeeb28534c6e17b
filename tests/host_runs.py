"""A run on several processes of this machine, as hosts of a pod."""

import contextlib
import os
import pathlib
import signal
import socket
import time

import fault_run

PATIENCE = 600  # Seconds until a hang is called one.


class Hosts:
  """The processes of a run, and what each has written."""

  def __init__(self, workdir, processes):
    self.workdir, self.processes = workdir, processes

  def said(self):
    """What each process has written."""
    return [
      pathlib.Path(f'{self.workdir}.{number}').read_text()
      for number in range(len(self.processes))
    ]

  def finish(self, patience=PATIENCE):
    """Waits for all that have not ended; returns all exit statuses."""
    deadline = time.monotonic() + patience
    for process in self.processes:
      process.join(max(0.1, deadline - time.monotonic()))
    found = [process.exitcode for process in self.processes]
    assert None not in found, (found, self.said())
    return found

  def kill(self, which, number=signal.SIGKILL):
    """Sends one of the processes a signal."""
    os.kill(self.processes[which].pid, number)

  def until(self, condition):
    """Returns when it holds; no process may end before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
      assert time.monotonic() < deadline, self.said()
      assert all(p.is_alive() for p in self.processes), self.said()
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
  before='',
):
  """Starts all processes of a run, and lets none of them stay.

  Args:
    tiny: the config file.
    workdir: of the run; `WORKDIR.NUMBER` gets what a process says.
    *assignments: of the config.
    count: of processes.
    each: devices of one; None is so many that all have eight.
    flags: more of the command's.
    before: Python that each process runs before the command.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  argv = ['train', '--config', tiny, '--workdir', str(workdir), *flags]
  devices = f'mesh.simulated_devices={each or 8 // count}'
  fsdp = f'mesh.fsdp={each * count if each else 4}'
  for one in (devices, fsdp, *assignments):
    argv += ['--set', one]
  argv += ['--coordinator', address, '--num-processes', str(count)]
  context = fault_run.context()
  with contextlib.ExitStack() as stack:
    processes = []
    for number in range(count):
      own = [*argv, '--process-id', str(number)]
      log = f'{workdir}.{number}'
      process = fault_run.start(context, own, log, before)
      stack.callback(process.join)
      stack.callback(process.kill)
      processes.append(process)
    yield Hosts(workdir, processes)
