"""Where a run's metrics go: a progress bar, files, TensorBoard, W&B."""

import json
import math
import sys
import time

from tensorboard.compat.proto import event_pb2
from tensorboard.compat.proto import summary_pb2
from tensorboard.summary.writer import event_file_writer
import tqdm

from imagen_jax import storage
from imagen_jax.train import lines
from imagen_jax.train import mirror
from imagen_jax.train import wandb_log

METRICS_FILE = 'metrics.jsonl'
_EVENTS = 'tensorboard'
# In a bucket a file of events is copied whole each time it has grown. So large,
# it is left, and another begun: pictures make some hundred megabytes.
_EVENTS_BYTES = 16 * 2**20
# Events that wait for a disk that is full; more are lost.
_WAITING = 10_000


class MetricWriter:
  """Writes one run's metrics; on any host but the first, does nothing.

  `metrics.jsonl` has one object a line, with the time (seconds since 1970), and
  each step once: lines of steps that a resumed run is about to repeat are cut
  when it starts. Of a workdir in a bucket the files are written in a folder of
  this host, and copied. Where they cannot be written, as on a full disk, it is
  said, and they are written once they can be.

  Args:
    workdir: of the run.
    start_step: finished updates so far; what stands after is cut.
    num_steps: of the whole run, for the progress bar.
    name: shown before the bar, and before what is said.
    enabled: whether this is the first host.
    wandb: the project at Weights & Biases that gets them, too; None is none.
    config: of the run, as JSON has it, for W&B.
  """

  def __init__(
    self,
    workdir,
    *,
    start_step,
    num_steps,
    name,
    enabled,
    wandb: str | None = None,
    config: dict | None = None,
  ):
    self._enabled, self._name = enabled, name
    if not enabled:
      return
    self._mirror = None
    self._folder = storage.Path(workdir)
    if storage.is_bucket(workdir):
      self._mirror = mirror.Mirror(workdir, '--workdir')
      self._mirror.fetch(METRICS_FILE)
      self._folder = storage.Path(self._mirror.folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    _cut_after(self._folder / METRICS_FILE, start_step)
    self._files = {METRICS_FILE: lines.Lines(self._folder / METRICS_FILE)}
    self._events, self._unwritten = None, []
    self._failing, self._events_bytes = set(), 0
    self._restart_events(start_step + 1)
    # A log file gets a line now and then, a terminal a live bar.
    self._bar = tqdm.tqdm(
      desc=name,
      total=num_steps,
      initial=start_step,
      unit='step',
      dynamic_ncols=True,
      mininterval=0.5 if sys.stderr.isatty() else 10,
    )
    self._add_events()
    self._wandb = None
    if wandb:
      self._wandb = self._open_wandb(wandb, config or {})

  def _open_wandb(self, project, config):
    if self._mirror:
      self._mirror.fetch(wandb_log.FILE)
    written = [
      (line.pop('step'), {k: v for k, v in line.items() if k != 'time'})
      for line in map(json.loads, self._files[METRICS_FILE].read())
    ]
    # W&B's own files grow, and are not for copying to a bucket.
    runs = None if self._mirror else str(self._folder)
    return wandb_log.WandbLog(
      project, self._folder, runs, self._name, config, written, self.say
    )

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if not self._enabled:
      return
    if self._wandb:
      self._wandb.close()
    # Once more, what could not be written before.
    self._write_lines()
    self._add_events()
    self._bar.close()
    self._close_events()
    if not self._mirror:
      return
    try:
      self._mirror.finish()
    except ValueError as error:
      if kind is None:
        raise
      self.say(str(error))  # What ended the run matters more.
    finally:
      self._mirror.close()

  def flush(self):
    """Returns when all that was written would survive the process.

    To be called before a checkpoint: a run that resumes from it does not write
    again what came before. A bucket that cannot be written is no reason to
    lose the checkpoint: it is said, and the files are copied later.
    """
    if not self._enabled:
      return
    if self._mirror:
      try:
        self._mirror.finish()
      except ValueError as error:
        self.say(f'{error}; it will be tried again')

  def advance(self):
    """Counts one finished step on the progress bar."""
    if self._enabled:
      self._bar.update()

  def say(self, text: str):
    """Prints a line above the progress bar, after the stage's name."""
    if self._enabled:
      self._bar.write(f'{self._name}: {text}', file=sys.stderr)

  def write(self, step: int, values: dict[str, float]):
    """Writes `values` of finished update `step` everywhere."""
    if not self._enabled:
      return
    # JSON has no NaN: a bucket that drew no example is left out.
    values = {k: float(v) for k, v in values.items() if not math.isnan(v)}
    line = {'step': step, 'time': round(time.time(), 3), **values}
    self.add(METRICS_FILE, json.dumps(line))
    if self._wandb:
      self._wandb.log(step, values)
    summary = summary_pb2.Summary(
      value=[
        summary_pb2.Summary.Value(tag=name, simple_value=value)
        for name, value in values.items()
      ]
    )
    self._event(step, summary)
    shown = {k: values[k] for k in ('loss', 'images_per_second') if k in values}
    self._bar.set_postfix({k: f'{v:.4g}' for k, v in shown.items()})
    if self._mirror:
      if failed := self._mirror.start():
        self.say(f'{failed}; it will be tried again')

  def open(self, name: str) -> list[str]:
    """Opens another file of lines, to `add` to; returns those that it has.

    It is kept like `metrics.jsonl`, but that nothing of it is cut.
    """
    if not self._enabled:
      return []
    if self._mirror:
      self._mirror.fetch(name)
    self._files[name] = lines.Lines(self._folder / name)
    return self._files[name].read()

  def add(self, name: str, line: str):
    """Writes a line to a file that is open."""
    if self._enabled:
      self._files[name].add(line)
      self._write_lines()

  def image(self, step: int, name: str, png: bytes, size: tuple[int, int]):
    """Writes a PNG of `size` (width, height), as a file and to TensorBoard."""
    if not self._enabled:
      return
    path = self._folder / name / f'step_{step:08d}.png'
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(png)
    except OSError as error:
      if path.is_file():
        path.unlink()  # Half a picture is none.
      self.say(f'{path} was not written ({error})')
    if self._wandb:
      self._wandb.image(step, name, png)
    picture = summary_pb2.Summary.Image(
      encoded_image_string=png, width=size[0], height=size[1], colorspace=3
    )
    value = summary_pb2.Summary.Value(tag=name, image=picture)
    self._event(step, summary_pb2.Summary(value=[value]))

  def _write_lines(self):
    """Writes the lines that wait, where the files can be written."""
    for name, file in self._files.items():
      try:
        file.write()
      except OSError as error:
        self._tell(name, error)
      else:
        self._failing.discard(name)

  def _tell(self, name, error):
    """Says that a file cannot be written, once until it can be again."""
    if name not in self._failing:
      self.say(f'{error}; metrics are kept, to be written when they can be')
    self._failing.add(name)

  def _event(self, step, summary):
    event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
    self._unwritten = [*self._unwritten[-_WAITING:], event]
    self._add_events()

  def _add_events(self):
    """Writes the events that wait, or begins another file with them later."""
    if not self._unwritten:
      return
    size = sum(event.ByteSize() for event in self._unwritten)
    if self._mirror and self._events_bytes + size > _EVENTS_BYTES:
      self._close_events()
    try:
      if self._events is None:
        self._open_events()
      for event in self._unwritten:
        self._events.add_event(event)
      self._events.flush()
    # TensorFlow's or the system's, by whichever is there to write files.
    except Exception as error:
      self._close_events()
      self._restart_events(self._unwritten[0].step)
      self._tell(_EVENTS, error)
    else:
      self._events_bytes += size
      self._unwritten = []
      self._failing.discard(_EVENTS)

  def _restart_events(self, step):
    """Has TensorBoard forget events from `step` on: they are written again."""
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    start = event_pb2.Event(wall_time=time.time(), step=step, session_log=log)
    self._unwritten = [
      start,
      *(e for e in self._unwritten if not e.HasField('session_log')),
    ]

  def _open_events(self):
    folder = self._folder / _EVENTS
    self._events = event_file_writer.EventFileWriter(str(folder))
    self._events_bytes = 0

  def _close_events(self):
    try:
      if self._events is not None:
        self._events.close()
    except Exception:  # As in `_add_events`, which is where it is told.
      pass
    self._events = None


def _cut_after(path, step):
  """Leaves the whole lines of a metrics file up to and with `step`."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines(keepends=True):
    try:
      if line.endswith('\n') and json.loads(line)['step'] <= step:
        kept.append(line)
    except (ValueError, KeyError, TypeError):
      continue  # The process was killed while it wrote this one.
  # Whole or not at all: this process may be killed as well.
  storage.write(path, ''.join(kept).encode(), '--workdir')
