"""What campaigns of faults share: a run, harm to its files, and the table.

A run goes on over the lives of its processes.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time

import compared
import fault_run
import jax
import numpy as np
from tensorboard.backend.event_processing import event_accumulator

from imagen_jax.train import checkpoint

PATIENCE = 600  # Seconds until a hang is called one.
HARM = ('flip', 'cut', 'gone')
_LINES = 2**14  # Bytes that hold some lines of metrics.


class Disk:
  """A small file system that can be full, where this user may mount one.

  Args:
    folder: to be made, where it is mounted.

  Attributes:
    folder: the same, an ordinary one where nothing can be mounted.
    mounted: whether it is a file system of its own.
  """

  _SIZE = 256 * 2**20

  def __init__(self, folder):
    folder.mkdir()
    self.folder = folder
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={self._SIZE}', 'tmpfs']
    try:
      done = subprocess.run([*mount, str(folder)], capture_output=True)
    except FileNotFoundError:
      self.mounted = False
    else:
      self.mounted = done.returncode == 0

  @contextlib.contextmanager
  def full(self, spare):
    """Within it, no more than `spare` bytes are free."""
    path = self.folder / 'full'
    with open(path, 'wb', buffering=0) as file:
      with contextlib.suppress(OSError):  # It says that it is full.
        while file.write(bytes(2**20)):
          pass
    os.truncate(path, max(0, path.stat().st_size - spare))
    yield
    path.unlink()

  def close(self):
    """Unmounts it; what was on it is to be found beside it."""
    if not self.mounted:
      return
    # A failed test may have left what still writes there, and holds it.
    with contextlib.suppress(shutil.Error):
      shutil.copytree(self.folder, f'{self.folder}-was')
    subprocess.run(['umount', '--lazy', str(self.folder)], check=True)


class Run:
  """One run, over the lives of its processes.

  Args:
    tiny: the config file.
    workdir: of the run.
    num_steps: of the run.
    checkpoint_every: of the run.
    disk: that `workdir` is on, and nothing else.
    count: of processes, of `2 // count` devices each.
    flags: more of the command's.
  """

  def __init__(
    self, tiny, workdir, num_steps, checkpoint_every, disk, count=1, flags=()
  ):
    self.workdir, self.log, self.count = workdir, f'{workdir}.log', count
    self.disk = disk
    self.ctx, self.harmed = fault_run.context(), 0
    self.argv = ['train', '--config', tiny, '--workdir', str(workdir), *flags]
    for each in (
      f'mesh.simulated_devices={2 // count}',
      f'train.num_steps={num_steps}',
      f'train.checkpoint_every={checkpoint_every}',
      'train.keep_checkpoints=6',
      'train.log_every=1',
    ):
      self.argv += ['--set', each]

  def start(self):
    who = [()]
    if self.count > 1:
      with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
      every = ('--coordinator', address, '--num-processes', str(self.count))
      who = [(*every, '--process-id', str(n)) for n in range(self.count)]
    self.processes = [
      fault_run.start(self.ctx, [*self.argv, *flags], self.log) for flags in who
    ]

  def step(self):
    """The last step that is written down."""
    path = self.workdir / 'metrics.jsonl'
    if not path.exists():
      return 0
    with open(path, 'rb') as file:
      # Its end: it is looked at two hundred times a second.
      file.seek(max(0, file.seek(0, os.SEEK_END) - _LINES))
      lines = file.read().split(b'\n')
    return json.loads(lines[-2])['step'] if len(lines) > 1 else 0

  def saving(self):
    folder = self.workdir / 'checkpoints'
    return folder.exists() and any(folder.glob('*.orbax-checkpoint-tmp'))

  def ended(self):
    """Whether a process has ended."""
    return any(each.exitcode is not None for each in self.processes)

  def until(self, condition):
    """Waits until it holds, or a process has ended; whether it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
      if self.ended():
        return False
      assert time.monotonic() < deadline, self.said()
      time.sleep(0.005)
    return True

  def end(self, patience=PATIENCE):
    """Waits for all processes; returns their exit statuses."""
    deadline = time.monotonic() + patience
    for process in self.processes:
      process.join(max(0.1, deadline - time.monotonic()))
    found = [process.exitcode for process in self.processes]
    assert None not in found, (found, self.said())
    return found

  def finish(self):
    """Waits for the run's end as long as steps are made; exit statuses."""
    while not self.ended():
      step = self.step()
      self.until(lambda step=step: self.step() != step)
    return self.end()

  def kill(self, number, which=0):
    if self.processes[which].exitcode is None:
      os.kill(self.processes[which].pid, number)

  def kill_all(self):
    for which in range(self.count):
      self.kill(signal.SIGKILL, which)

  def full_disk(self, rng):
    """The disk is full for a while.

    Where none could be mounted, no file may grow beyond a size.
    """
    seconds = rng.uniform(0.2, 2)
    if self.disk.mounted:
      with self.disk.full(int(rng.integers(2**16))):
        time.sleep(seconds)
    else:
      self._limit(int(rng.integers(4096)))
      time.sleep(seconds)
      self._limit(resource.RLIM_INFINITY)
    goal = self.step() + 4
    self.until(lambda: self.step() >= goal)

  def _limit(self, size):
    for process in self.processes:
      if process.exitcode is None:
        resource.prlimit(
          process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)
        )

  def said(self):
    with open(self.log) as file:
      return file.read()[-4000:]

  def checkpoints(self):
    folder = self.workdir / 'checkpoints'
    found = folder.iterdir() if folder.exists() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit())


def harm(run, how, rng):
  """Damages a file of the newest checkpoint, once there are others."""
  steps = run.checkpoints()
  if len(steps) < 3:
    return
  run.harmed += 1
  folder = run.workdir / 'checkpoints' / str(steps[-1])
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  path = files[rng.integers(len(files))]
  data = bytearray(path.read_bytes())
  if how == 'flip' and data:
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)
  elif how == 'gone':
    path.unlink()
  else:
    os.truncate(path, len(data) // 2)


def leave(run, kind, rng):
  """Kills what is left of a run's processes; damages a file, as `kind` may."""
  run.kill_all()
  run.end()
  if kind in HARM:
    harm(run, kind, rng)


def scalars(workdir):
  """The losses that TensorBoard shows of a run."""
  found = event_accumulator.EventAccumulator(
    str(workdir / 'tensorboard'), size_guidance={'scalars': 0}
  )
  events = found.Reload().Scalars('loss')
  return [(event.step, event.value) for event in events]


def assert_unharmed(run, calm, num_steps):
  """Asserts that a run is, in all it leaves, as one that met no fault."""
  compared.assert_same(run.workdir, calm.workdir, num_steps)
  assert scalars(run.workdir) == scalars(calm.workdir)
  state = compared.state(run.workdir, num_steps)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def table(run, met, columns):
  """What a run has met, as lines.

  Args:
    run: of the campaign.
    met: of each kind, a tuple of numbers a fault; None where there is none.
    columns: names of the numbers.
  """
  lines = [f'{"fault":16}  times  ' + '  '.join(columns)]
  for kind, faults in met.items():
    means = []
    for name, numbers in zip(columns, zip(*faults) if faults else ()):
      known = [n for n in numbers if n is not None]
      mean = np.mean(known) if known else 0
      means.append(f'{mean:{len(name)}.1f}')
    lines.append(f'{kind:16} {len(faults):6}  ' + '  '.join(means))
  damaged = run.workdir / checkpoint.DAMAGED
  count = len(list(damaged.iterdir())) if damaged.exists() else 0
  # One that is damaged again before a run has read it counts once.
  lines.append(f'{run.harmed} times damaged, {count} checkpoints set aside')
  how = 'a small tmpfs' if run.disk.mounted else "a limit of a file's size"
  lines.append(f'the full disk was {how}')
  return '\n'.join(lines)
