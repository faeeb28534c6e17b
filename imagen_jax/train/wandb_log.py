"""A run's metrics and pictures at Weights & Biases.

A thread hands them over, so that a service that does not answer holds up
nothing; where it cannot be reached at the start, they are kept in the form that
`wandb sync` sends later. `metrics.jsonl` has them all in any case.

The run's id is kept in the workdir, in `wandb.json`, so that all its lives are
one run there; and so is the last step of each kind, noted before it is handed
over. A step is so sent once, or, where a kill comes between the two, not. What
waited when a run was killed, or was written without W&B, is handed over later.
"""

import importlib.util
import io
import json
import queue
import secrets
import threading

from PIL import Image

from imagen_jax import storage

FILE = 'wandb.json'
_METRICS, _PICTURES = 'metrics', 'pictures'
# Of pictures, beside the metrics' 'step', as they may come at other steps.
_STEPS = {_METRICS: 'step', _PICTURES: 'picture_step'}
# What waits for a service, at most; more is lost there.
_WAITING = 10_000
# Seconds that the start of a run there may take, and its end.
_START, _END = 60, 30


def check():
  """Raises ValueError where the package is not installed."""
  if importlib.util.find_spec('wandb') is None:
    raise ValueError(
      '--wandb is given, but the package wandb is not installed; accepted: an '
      "environment with it (pip install 'imagen-jax[wandb]')"
    )


class WandbLog:
  """Hands metrics and pictures to W&B.

  Args:
    project: there.
    folder: of the run, local; `wandb.json` is kept in it.
    runs: the folder of W&B's own files; None is what it takes by itself.
    name: of the run, as shown.
    config: of the run, as JSON has it.
    written: (step, metrics) of all that is in the workdir.
    say: is given a line, once where something fails.
  """

  def __init__(
    self,
    project: str,
    folder: storage.Path,
    runs: str | None,
    name: str,
    config: dict,
    written: list[tuple[int, dict]],
    say,
  ):
    self._project, self._path, self._say = project, folder / FILE, say
    self._all = _read(self._path)
    # Another project has a run of its own.
    self._known = self._all.setdefault(project, {'id': secrets.token_hex(4)})
    self._started = {'dir': runs, 'name': name, 'config': config}
    self._written = written
    self._queue = queue.SimpleQueue()
    self._failed = set()
    self._thread = threading.Thread(
      target=self._work, name='wandb', daemon=True
    )
    self._thread.start()

  def log(self, step: int, values: dict[str, float]):
    """Hands over the metrics of a step, unless they were before."""
    self._put(_METRICS, step, values)

  def image(self, step: int, name: str, png: bytes):
    """Hands over a picture of a step, unless it was before."""
    self._put(f'{_PICTURES}/{name}', step, png)

  def close(self):
    """Returns when all is handed over, or that takes too long."""
    self._queue.put((None, 0, None))  # However many wait before it.
    self._thread.join(_START + _END)
    if self._thread.is_alive():
      self._tell('it did not take all in time')

  def _put(self, *what):
    if self._queue.qsize() < _WAITING:
      self._queue.put(what)
    else:
      self._tell('it takes nothing, and what it was to be given is lost')

  def _tell(self, reason):
    if reason not in self._failed:
      self._failed.add(reason)
      self._say(f'Weights & Biases: {reason}')

  def _work(self):
    run = self._start()
    for what in self._given():
      if run is None:
        continue
      try:
        self._hand_over(run, *what)
      except Exception as error:  # Whatever is wrong there, training goes on.
        self._tell(f'a step was not taken ({_line(error)})')
    if run is not None:
      try:
        run.finish()
      except Exception as error:
        self._tell(f'the run was not ended ({_line(error)})')

  def _given(self):
    """(kind, step, what) of all that is to be handed over, as it comes."""
    for step, values in self._written:
      yield _METRICS, step, values
    while (what := self._queue.get())[0] is not None:
      yield what

  def _start(self):
    """The run there, or where that cannot be, in files; None where neither."""
    try:
      import wandb
    except Exception as error:  # A part that it asks for may be missing.
      self._tell(f'it is not used, as it cannot be imported ({_line(error)})')
      return None
    for mode in (None, 'offline'):
      try:
        run = wandb.init(
          project=self._project,
          id=self._known['id'],
          resume='allow',
          mode=mode,
          settings=wandb.Settings(
            console='off', init_timeout=_START, finish_timeout=_END
          ),
          **self._started,
        )
        for axis in _STEPS.values():
          run.define_metric(axis, hidden=True)
        run.define_metric(f'{_PICTURES}/*', step_metric=_STEPS[_PICTURES])
        run.define_metric('*', step_metric=_STEPS[_METRICS])
        return run
      except Exception as error:
        then = 'it is not used'
        if mode is None:
          then = 'what it is to have is kept for `wandb sync`'
        self._tell(f'{then}, as it cannot be started ({_line(error)})')
        # Or its own process would hold the id for the run that failed.
        wandb.teardown()
    return None

  def _hand_over(self, run, name, step, what):
    kind = name.partition('/')[0]
    axis = _STEPS[kind]
    # What is told there of a run that goes on: the file of a workdir in a
    # bucket may be a minute old.
    there = run.summary.get(axis)
    if step <= max(self._known.get(name, 0), int(there or 0)):
      return
    self._known[name] = step
    beside = self._path.with_name(FILE + '.tmp')
    beside.write_text(json.dumps(self._all))
    beside.replace(self._path)
    if kind == _PICTURES:
      import wandb

      what = {name: wandb.Image(Image.open(io.BytesIO(what)))}
    run.log({axis: step, **what})


def _read(path):
  """What is kept in a workdir, by project."""
  if not path.is_file():
    return {}
  return json.loads(path.read_text())


def _line(error):
  return ' '.join(str(error).split()) or type(error).__name__
