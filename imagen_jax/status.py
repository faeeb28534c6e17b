"""Where a run stands, by what it has written."""

import dataclasses
import json
import time

from imagen_jax import storage

# Bytes of the end of a file of metrics that are read: some thousand lines.
_TAIL = 4 << 20
# Lines of metrics that a rate is of, and columns of a curve.
_RECENT, _COLUMNS = 10, 60
_BARS = '▁▂▃▄▅▆▇█'
# Of the last line, what is shown; those that it has.
_SHOWN = (
  'images_per_second',
  'images_per_second_per_chip',
  'images_seen',
  'mfu',
  'hbm_peak_gib',
  'data_wait_share',
  'save_wait_seconds',
)
# The least share of the time that is worth a word.
_LEAST = 0.001
# A run that has written nothing for so many of its intervals is not running.
_SILENT = 5


@dataclasses.dataclass(frozen=True)
class Status:
  """Where a run stands.

  Attributes:
    name: of the stage.
    step: finished updates, as far as they are written down.
    num_steps: of the whole run.
    rate: steps a second, of late; None where there are too few lines.
    age: seconds since the last line; None where there is none.
    running: whether lines come as they did.
    metrics: of the last line.
    losses: of all lines read, (step, loss).
    skipped: steps that changed nothing, of all lines read.
    checkpoints: their steps.
    saved: seconds since the newest checkpoint; None where there is none, or it
      lacks a file.
    damaged: checkpoints that were set aside.
    stalls: times that a host's stacks were dumped.
  """

  name: str
  step: int
  num_steps: int
  rate: float | None
  age: float | None
  running: bool
  metrics: dict
  losses: list[tuple[int, float]]
  skipped: int
  checkpoints: list[int]
  saved: float | None
  damaged: list[str]
  stalls: list[str]


def read(workdir: str, now: float | None = None) -> Status:
  """Reads what a run has written.

  Args:
    workdir: of the run; local or a bucket.
    now: the time, in seconds since 1970.

  Raises:
    ValueError: where there is no run.
  """
  now = time.time() if now is None else now
  folder = storage.Path(workdir)
  found = storage.read(folder / 'config.json', 'WORKDIR')
  if found is None:
    raise ValueError(
      f'WORKDIR is {workdir!r}, which has no config.json; accepted: the '
      '--workdir of a run that has begun'
    )
  config = json.loads(found)
  lines = _lines(folder / 'metrics.jsonl')
  last = lines[-1] if lines else {}
  recent = [line for line in lines[-_RECENT:] if 'time' in line]
  rate = None
  if len(recent) > 1 and recent[-1]['time'] > recent[0]['time']:
    seconds = recent[-1]['time'] - recent[0]['time']
    rate = (recent[-1]['step'] - recent[0]['step']) / seconds
  age = now - last['time'] if 'time' in last else None
  num_steps = config['train']['num_steps']
  interval = config['train']['log_every'] / rate if rate else None
  steps, saved = _checkpoints(folder / 'checkpoints', now)
  return Status(
    name=config['stage']['name'],
    step=last.get('step', 0),
    num_steps=num_steps,
    rate=rate,
    age=age,
    running=bool(
      interval
      and last['step'] < num_steps
      and age < max(_SILENT * interval, 60.0)
    ),
    metrics=last,
    losses=[(x['step'], x['loss']) for x in lines if 'loss' in x],
    skipped=int(sum(x.get('skipped_steps', 0) for x in lines)),
    checkpoints=steps,
    saved=saved,
    damaged=_names(folder / 'damaged'),
    stalls=_names(folder / 'stacks'),
  )


def _lines(path):
  """The last lines of a file of metrics that are whole."""
  if not path.exists():
    return []
  with path.open('rb') as file:
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL))
    lines = file.read().split(b'\n')
  lines = lines[1 if size > _TAIL else 0 : -1]
  found = []
  for line in lines:
    try:
      found.append(json.loads(line))
    except ValueError:
      continue  # A run that was killed wrote a part of it.
  return found


def _checkpoints(folder, now):
  """Steps of complete checkpoints, and seconds since the newest."""
  steps = {
    int(path.name): path
    for path in (folder.iterdir() if folder.exists() else ())
    if path.name.isdigit()
  }
  if not steps:
    return [], None
  newest = steps[max(steps)]
  try:
    saved = now - (newest / '_CHECKPOINT_METADATA').stat().mtime
  except FileNotFoundError:  # Damaged, or removed since it was listed.
    saved = None
  return sorted(steps), saved


def _names(folder):
  return (
    sorted(path.name for path in folder.iterdir()) if folder.exists() else []
  )


def curve(losses: list[tuple[int, float]], columns: int = _COLUMNS) -> str:
  """The losses as bars, each the mean of as many lines; '' where none are."""
  columns = min(columns, len(losses))
  if not columns:
    return ''
  values = [loss for _, loss in losses]
  edges = [n * len(values) // columns for n in range(columns + 1)]
  means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:])]
  return bars(means, min(means), max(means))


def bars(values: list[float], low: float, high: float) -> str:
  """Values as bars, of which the lowest is `low` and the highest `high`."""
  scale = (len(_BARS) - 1) / (high - low) if high > low else 0
  return ''.join(_BARS[round((value - low) * scale)] for value in values)


def report(status: Status) -> str:
  """The status as lines for a person."""
  share = status.step / status.num_steps
  lines = [f'{status.name}: step {status.step:,} of {status.num_steps:,}']
  lines[0] += f' ({share:.1%})'
  if status.step >= status.num_steps:
    lines[0] += ', finished'
  elif status.running:
    left = (status.num_steps - status.step) / status.rate
    lines[0] += f', {status.rate:.3g} steps/s, {duration(left)} to go'
  elif status.age is not None:
    lines[0] += f', silent for {duration(status.age)}'
  else:
    lines[0] += ', no metrics yet'
  if status.checkpoints:
    kept = ', '.join(f'{step:,}' for step in status.checkpoints)
    age = 'damaged' if status.saved is None else f'{duration(status.saved)} ago'
    lines.append(f'checkpoints: {kept}; newest {age}')
  else:
    lines.append('checkpoints: none')
  if status.losses:
    first, last = status.losses[0], status.losses[-1]
    lines.append(f'loss: {curve(status.losses)}')
    lines.append(
      f'      {first[1]:.4g} at step {first[0]:,} to {last[1]:.4g} at step '
      f'{last[0]:,}'
    )
  shown = [
    f'{name} {status.metrics[name]:.4g}'
    for name in _SHOWN
    if name in status.metrics
  ]
  if shown:
    lines.append(f'last line: {", ".join(shown)}')
  if 'goodput' in status.metrics:
    lines.append(_goodput(status.metrics))
  lines.append(f'faults: {", ".join(_faults(status)) or "none"}')
  return '\n'.join(lines)


def _goodput(metrics):
  """The share of the time that was productive, and the largest losses."""
  prefix = 'lost_seconds/'
  lost = {
    name.removeprefix(prefix): seconds
    for name, seconds in metrics.items()
    if name.startswith(prefix)
  }
  total = metrics['productive_seconds'] + sum(lost.values())
  largest = sorted(lost, key=lost.get, reverse=True)
  shares = [
    f'{name} {lost[name] / total:.1%}'
    for name in largest
    if lost[name] > _LEAST * total
  ]
  text = f'goodput: {metrics["goodput"]:.1%} of {duration(total)}'
  return f'{text}; lost: {", ".join(shares)}' if shares else text


def _faults(status):
  """What has gone wrong so far, in words."""
  counted = [
    ('resumes', int(status.metrics.get('resumes', 0))),
    ('bad records', int(status.metrics.get('bad_records', 0))),
    ('steps skipped of late', status.skipped),
  ]
  found = [f'{name} {count:,}' for name, count in counted if count]
  for what, names in (
    ('damaged checkpoints', status.damaged),
    ('stacks of steps that did not end', status.stalls),
  ):
    if names:
      found.append(f'{what} {len(names)} ({", ".join(names[-3:])})')
  return found


def duration(seconds: float) -> str:
  """Seconds as a person says them: '5 s', '12 min', '3 h 20 min', '4 d 2 h'."""
  seconds = max(0, round(seconds))
  if seconds < 120:
    return f'{seconds} s'
  minutes = seconds // 60
  if minutes < 60:
    return f'{minutes} min'
  hours, minutes = divmod(minutes, 60)
  if hours < 48:
    return f'{hours} h {minutes} min'
  return f'{hours // 24} d {hours % 24} h'
