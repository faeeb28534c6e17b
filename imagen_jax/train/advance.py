"""The steps of a run, and what is done between them."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import json

import jax

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.data import loader as loader_lib
from imagen_jax.text import online as online_lib
from imagen_jax.text import store as store_lib
from imagen_jax.train import checkpoint
from imagen_jax.train import goodput as goodput_lib
from imagen_jax.train import guard as guard_lib
from imagen_jax.train import interval as interval_lib
from imagen_jax.train import keeping
from imagen_jax.train import memory
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import mfu
from imagen_jax.train import norms
from imagen_jax.train import passing as passing_lib
from imagen_jax.train import profile
from imagen_jax.train import reading
from imagen_jax.train import reports
from imagen_jax.train import saving
from imagen_jax.train import skipped as skipped_lib
from imagen_jax.train import snapshots as snapshots_lib
from imagen_jax.train import start as start_lib
from imagen_jax.train import stopping
from imagen_jax.train import views as views_lib
from imagen_jax.train import waits as waits_lib
from imagen_jax.train import watchdog


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended.

  Attributes:
    step: finished updates.
    signal: the signal that stopped it early; None where it finished.
  """

  step: int
  signal: int | None


@dataclasses.dataclass(frozen=True)
class Run:
  """What stays the same where a run rewinds; see `loop.train`."""

  config: config_lib.Config
  workdir: str
  mesh: jax.sharding.Mesh
  rows: Sequence[int]
  store: store_lib.EmbeddingStore | None
  online: online_lib.Online | None
  views: views_lib.Views
  loader: loader_lib.Loader
  checkpointer: checkpoint.Checkpointer
  identity: dict
  stopper: stopping.Stopper
  passing: passing_lib.Passing
  train_step: Callable
  pass_over: Callable
  profile_steps: tuple[int, int] | None
  asker: profile.Asker
  first_host: bool
  goodput: goodput_lib.Goodput
  meter: mfu.Meter
  wandb: str | None


def advance(run: Run, start: start_lib.Start) -> Outcome | passing_lib.Rewind:
  """Takes steps from `start` on, until the run ends or has to rewind.

  Args:
    run: what stays the same.
    start: of a step before the run's last.
  """
  config, mesh, passing = run.config, run.mesh, run.passing
  state, judged, images = start.state, start.judged, start.images
  goodput = run.goodput
  loader = run.loader
  if run.online:
    loader = online_lib.Ahead(loader, run.online)

  with (
    metrics_lib.MetricWriter(
      run.workdir,
      start_step=start.step,
      num_steps=config.train.num_steps,
      name=config.stage.name,
      enabled=run.first_host,
      wandb=run.wandb,
      config=json.loads(config_lib.to_json(config)),
    ) as writer,
    watchdog.Watchdog(
      run.workdir, jax.process_index(), config.train.stall_factor
    ) as watched,
    profile.Profiler(
      run.workdir, run.profile_steps, writer.say, run.asker
    ) as profiler,
    contextlib.ExitStack() as at_end,
  ):
    writer.say(reports.describe(config, mesh, state, start.step))
    if text := reports.warn_of_copies(state, mesh):
      writer.say(text)
    for line in start.told:
      writer.say(line)
    cut = reports.Cut(run.store, run.online, config.text.max_length)
    cut.say(writer)
    interval = interval_lib.Interval(config.train.batch_size, start.kept)
    skipped = skipped_lib.Skipped(run.workdir, jax.process_index())
    # With each checkpoint, and whatever ends the run: too many, for one.
    at_end.callback(lambda: skipped.write(loader.tally.listed()))
    at_end.callback(passing.write)
    saver = saving.Saver(
      run.checkpointer, config, run.identity, start.step, writer.say
    )
    snapshots = at_end.enter_context(
      snapshots_lib.Snapshots(
        run.workdir, config, run.identity, state, writer.say
      )
    )
    held_up = 0.0
    waits = waits_lib.Waits(config.data)
    previous = None
    goodput.open(writer, start.step)
    at_end.callback(goodput.close)

    for step in range(start.step + 1, config.train.num_steps + 1):
      with goodput.waiting('data'):
        rows = next(loader)
      passing.note(step, rows)
      if passing.over(step):
        state, metrics = run.pass_over(state), {'bad': 1.0}
      else:
        batch = sharding.put_batch(_to_batch(rows), mesh, config.mesh)
        profiler.before(step)
        goodput.before_step()
        with jax.transfer_guard('disallow'):
          state, metrics = run.train_step(state, batch)
        goodput.after_step(step, metrics['loss'])
        profiler.after(step, metrics)
      images += config.train.batch_size
      interval.add(metrics)
      # At most one step runs ahead of the host: more would only hold memory.
      jax.block_until_ready(previous)
      previous = metrics
      writer.advance()

      seen = {}
      if run.views.due(step):
        if rewind := passing.look(step, interval.state(), saver.wait):
          return rewind
        with goodput.waiting('sample'):
          seen = run.views.look(step, state, writer)
      if _is_time(step, config.train.log_every, config):
        saver.look()
        if rewind := passing.look(step, interval.state(), saver.wait):
          return rewind
        values = norms.named(interval.flush(), state.params)
        values['images_seen'] = images
        values |= run.meter.metrics(values['images_per_second'])
        values |= memory.metrics()
        waited, warning = waits.measure(loader.wait_seconds)
        values |= waited
        values['save_wait_seconds'] = saver.seconds - held_up
        held_up = saver.seconds
        read = start.read + count_read(loader, config, run.rows)
        values |= reading.metrics(read, _tasks(config)) | seen
        values |= goodput.line()
        writer.write(step, values)
        judged = keeping.judged(values, config.keep) or judged
        if warning:
          writer.say(warning)
        cut.say(writer)
      elif seen:
        writer.write(step, seen)
        judged = keeping.judged(seen, config.keep) or judged
      if snapshots.due(step):
        if rewind := passing.look(step, interval.state(), saver.wait):
          return rewind
        with goodput.waiting('save'):
          saver.seconds += snapshots.save(step, state)
      signal = run.stopper.should_stop()
      if signal or saver.due(step):
        # A state that is past mending must not displace a good one.
        if rewind := passing.look(step, interval.state(), saver.wait):
          return rewind
        # Before the save: a run that resumes from it does not write these
        # metrics again, nor meet these records.
        goodput.line()
        with goodput.waiting('save'):
          writer.flush()
        skipped.write(loader.tally.listed())
        passing.write()
        read = start.read + count_read(loader, config, run.rows)
        position = {
          'loader': loader.state(),
          'interval': interval.state(),
          'read': reading.as_state(read, _tasks(config)),
          'watch': guard_lib.as_json(state.watch),
          'passed': passing.state(),
          'judged': judged,
          'images': images,
        }
        with goodput.waiting('save'):
          saver.save(step, state, position)
      watched.beat(step)
      if signal or step == config.train.num_steps:
        with goodput.waiting('save'):
          saver.finish(step, state, position)
      if signal and step < config.train.num_steps:
        return Outcome(step, signal)
    read = start.read + count_read(loader, config, run.rows)
    if left_out := reading.table(read, _tasks(config)):
      writer.say(f'records that were left out, on all hosts:\n{left_out}')
    # Their keys are known to the host that read them: see `skipped`.
    if loader.tally.table():
      writer.say(f'bad ones of the first host:\n{loader.tally.table()}')
  return Outcome(config.train.num_steps, None)


def _is_time(step, every, config):
  """Whether something done every so many steps, and at the end, is due."""
  return step % every == 0 or step == config.train.num_steps


def _tasks(config):
  """The names of the tasks, in an order that all hosts have."""
  return [task.name for task in config.data.tasks]


def count_read(
  loader: loader_lib.Loader, config: config_lib.Config, rows: Sequence[int]
):
  """Records that hosts have read since they started; see `reading`.

  Those of batches that are prepared ahead are among them: of each resume a few
  are counted twice.
  """
  copies = len(rows) * jax.process_count() // config.train.batch_size
  return reading.over_hosts(loader.tally.counts(), _tasks(config), copies)


def _to_batch(rows):
  """A loader's dict as a `structs.Batch` of host-local rows."""
  return structs.Batch.of(rows)
