"""Which share of a run's time moved it forward, over all its lives.

Productive is the time that devices spend on steps that last. All else is a
loss, and has a name:

  start, restore, compile: until the first step is under way, of each life;
  data, save, sample: a host held the devices up by that;
  other: devices stood still for the rest, such as metrics;
  repeated: steps that were made, and made again as no checkpoint had them;
  between: from the last that is known of a life to the start of the next.

A host that waits while the devices are busy loses nothing, so a thread notes
when each step is done. Google's ml-goodput-measurement has the same idea, and
keeps its records in Cloud Logging alone; these are in a file of the workdir,
`goodput.jsonl`, that is added to with each line of metrics and before each
save. So steps up to any checkpoint are told from those after it exactly, and
of what a kill takes no more than an interval is not known: it is 'between'.
"""

import collections
import contextlib
import json
import queue
import threading
import time

import jax

from imagen_jax.train import hosts

FILE = 'goodput.jsonl'
# In the order of a life; who has others to name adds them by naming them.
NAMES = (
  'start',
  'restore',
  'compile',
  'data',
  'save',
  'sample',
  'other',
  'repeated',
  'between',
)
# What one host is held up by, all wait for.
_SHARED = ('data', 'save', 'sample')
# Seconds that the end of a run waits for its last step.
_PATIENCE = 10.0


class Account:
  """Sums over the lines of the file, as they come.

  Attributes:
    productive: seconds.
    lost: seconds, by name.
    lives: processes that have worked on the run.
    time: of the last line, in seconds since 1970; None before the first.
  """

  def __init__(self):
    self.productive, self.lost = 0.0, collections.Counter()
    self.lives, self.time = 0, None
    self._steps = []  # (step, productive seconds until it) of those that last.

  def add(self, line: dict):
    """Counts a line of the file."""
    if 'from' in line:
      self.lives += not line.get('rewound', False)
      while self._steps and self._steps[-1][0] > line['from']:
        _, busy = self._steps.pop()
        self.productive -= busy
        self.lost['repeated'] += busy
    else:
      self._steps.append((line['step'], line['busy']))
      self.productive += line['busy']
    self.lost.update(line['lost'])
    self.time = line['time']

  def metrics(self) -> dict[str, float]:
    """The share of the time that was productive, and what the rest was."""
    seconds = self.productive + sum(self.lost.values())
    found = {
      'goodput': self.productive / seconds if seconds else 0.0,
      'productive_seconds': self.productive,
      'resumes': max(self.lives - 1, 0),
    }
    for name in dict.fromkeys((*NAMES, *self.lost)):
      found[f'lost_seconds/{name}'] = self.lost[name]
    return found


def read(lines: list[str]) -> Account:
  """The account of a file's lines; what is no line of it is left out."""
  account = Account()
  for line in lines:
    with contextlib.suppress(ValueError, KeyError, TypeError):
      account.add(json.loads(line))
  return account


class Goodput:
  """Keeps the account of one life; each host has one, the first writes it.

  Every moment is counted once: as a step's, on the devices, or as lost.

  Args:
    begun: when this process began with the run, in seconds since 1970; None is
      now.
    clock: returns seconds, of processes.
    wall: returns seconds since 1970.
  """

  def __init__(
    self, begun: float | None = None, clock=time.perf_counter, wall=time.time
  ):
    self._clock, self._wall = clock, wall
    self._begun = wall() if begun is None else begun
    self._since = clock() - max(wall() - self._begun, 0.0)
    self._mark = self._since
    self._lost = collections.Counter()
    self._writer, self._account = None, Account()
    self._before = None  # When the step that is dispatched now was begun with.
    self._step = None  # The last that was dispatched.
    self._steps, self._done = 0, 0  # How many were, and of those are done.
    # Seconds of devices on steps since the last line, and when one was done.
    self._busy, self._ready = 0.0, 0.0
    self._news = threading.Condition()
    self._queue = queue.SimpleQueue()
    self._thread = None

  def spent(self, name: str):
    """Counts the time since the last such call, or the start, as lost."""
    now = self._clock()
    self._lost[name] += now - self._mark
    self._mark = now

  def open(self, writer, start_step: int):
    """Begins with the steps: reads what was before, and writes the start.

    May be called again once it was closed, by a life that goes back.

    Args:
      writer: a `metrics.MetricWriter`.
      start_step: finished updates.
    """
    line = {'from': start_step}
    if self._writer is not None:
      line['rewound'] = True
    self._writer = writer
    self._account = read(writer.open(FILE))
    if self._account.time is not None:
      between = max(self._begun - self._account.time, 0.0)
      self._lost['between'] += between
    self._step = start_step
    self._write(line)
    self._since = self._mark
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  @contextlib.contextmanager
  def waiting(self, name: str):
    """Counts what is within as lost, while no step is under way."""
    begun = self._clock()
    try:
      yield
    finally:
      with self._news:
        now = self._clock()
        if self._done == self._steps:
          self._lost[name] += now - max(begun, self._ready)

  def before_step(self):
    """To be called before a step is dispatched."""
    self._before = self._clock()

  def after_step(self, step: int, result: jax.Array):
    """To be called after it; a number of its results tells when it is done."""
    self._step = step
    if not self._steps:  # What its first call does, once, is not training.
      now = self._clock()
      self._lost['compile'] += now - self._before
      self._before = now
    with self._news:
      self._steps += 1
    self._queue.put((self._before, result))

  def line(self) -> dict[str, float]:
    """Writes what was since the last line; returns metrics of all so far.

    To be called on all hosts, after the same steps.
    """
    self._settle(None)
    lost = dict(zip(_SHARED, hosts.largest([self._lost[n] for n in _SHARED])))
    self._end_line(lost)
    return self._account.metrics()

  def close(self):
    """Writes what was since the last line, as far as it is known."""
    if self._thread is None:
      return
    if self._settle(_PATIENCE):
      self._end_line({})
    self._mark = self._since
    self._queue.put(None)
    self._thread = None

  def _end_line(self, shared):
    now = self._clock()
    seconds, self._since = now - self._since, now
    with self._news:
      busy, self._busy = self._busy, 0.0
    # The devices of this host were busy with waiting for those of another.
    for name, most in shared.items():
      more = min(max(most - self._lost[name], 0.0), busy)
      self._lost[name] += more
      busy -= more
    rest = seconds - busy - sum(self._lost.values())
    self._lost['other'] += max(rest, 0.0)
    self._write({'step': self._step, 'busy': round(busy, 6)})

  def _write(self, line):
    line |= {
      'time': round(self._wall(), 3),
      'lost': {k: round(v, 6) for k, v in self._lost.items() if v},
    }
    self._lost.clear()
    self._account.add(line)
    self._writer.add(FILE, json.dumps(line))

  def _settle(self, seconds):
    """Waits until all steps are done; whether they are."""
    with self._news:
      return self._news.wait_for(lambda: self._done == self._steps, seconds)

  def _watch(self):
    while (given := self._queue.get()) is not None:
      begun, result = given
      # What goes wrong on a device is told where the result is read.
      with contextlib.suppress(Exception):
        jax.block_until_ready(result)
      with self._news:
        now = self._clock()
        self._busy += now - max(begun, self._ready)
        self._ready = now
        self._done += 1
        self._news.notify_all()
