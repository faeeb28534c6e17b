"""The training loop, for any stage, from the first step or a checkpoint."""

import contextlib
import dataclasses
import functools

import jax

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax import storage
from imagen_jax import structs
from imagen_jax.data import loader as loader_lib
from imagen_jax.data import tasks as tasks_lib
from imagen_jax.text import identity as identity_lib
from imagen_jax.text import online as online_lib
from imagen_jax.text import store as store_lib
from imagen_jax.train import checkpoint
from imagen_jax.train import executable as executable_lib
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import optimizer
from imagen_jax.train import profile
from imagen_jax.train import reading
from imagen_jax.train import reports
from imagen_jax.train import resume
from imagen_jax.train import samples as samples_lib
from imagen_jax.train import saving
from imagen_jax.train import skipped as skipped_lib
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib
from imagen_jax.train import stopping
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


def train(
  config: config_lib.Config,
  workdir: str,
  *,
  allow_config_change=False,
  profile_steps: tuple[int, int] | None = None,
  executable: str | None = None,
) -> Outcome:
  """Trains to `train.num_steps`, from the newest checkpoint where there is one.

  The result is a function of (config, seed, data): a resumed run repeats what
  the run it resumes would have done, on any mesh.

  Args:
    config: the run.
    workdir: a folder, local or in a bucket: checkpoints, metrics, samples.
    allow_config_change: resume although the config, or the text encoder that
      lies where it says, has changed.
    profile_steps: the first and the last step of a trace for xprof; SIGUSR1
      asks for one, too.
    executable: a file of `train/executable.py`, the step compiled before; None
      compiles it.

  Raises:
    ValueError: where the config does not fit the machine, the data, the store
      or the checkpoint, the text encoder is not the checkpoint's, or the
      executable is of another step; before the first step.
    FloatingPointError: where a loss or gradient is not finite, before the
      next line of metrics or checkpoint is written.
    OSError: where the workdir cannot be written.
  """
  first_host = jax.process_index() == 0
  if first_host:
    storage.check_writable(workdir, '--workdir')
  mesh = sharding.make_mesh(config.mesh)
  rows = sharding.local_rows(mesh, config.train.batch_size, config.mesh)
  store = None if config.text.online else _open_store(config)
  identity = (
    store.manifest['identity'] if store else identity_lib.of(config.text)
  )

  with (
    sharding.use_mesh(mesh, config.mesh),
    checkpoint.Checkpointer(
      workdir, keep=config.train.keep_checkpoints
    ) as checkpointer,
    loader_lib.training_batches(config, rows=rows, store=store) as loader,
    stopping.Stopper() as stopper,
  ):
    online = None
    if config.text.online:
      online = online_lib.Online(config.text, mesh)
    sampler = _make_sampler(config, store, online, mesh)

    tx = optimizer.make_optimizer(config)
    shardings = state_lib.state_shardings(config, tx, mesh)
    found = resume.newest(
      checkpointer,
      functools.partial(state_lib.abstract_state, config, tx, shardings),
      lambda said: resume.check_changes(
        said, config, identity, allow_config_change
      ),
    )
    start_step, kept = 0, []
    read_before = reading.from_state({}, _tasks(config))
    if found:
      state, start_step = found.state, found.said.step
      loader.restore(
        found.data['loader'],
        allow_other_data=allow_config_change,
        rates={task.name: task.rate for task in found.said.config.data.tasks},
        batch_size=found.said.config.train.batch_size,
      )
      kept = found.data['interval']
      # Checkpoints of before 0.1.0 do not have it.
      before = found.data.get('read', {})
      read_before = reading.from_state(before, _tasks(config))
    else:
      state = state_lib.init_state(config, tx, shardings)
    train_step = step_lib.compile_step(config, tx, shardings, mesh)
    if executable:
      abstract = state_lib.abstract_state(config, tx, shardings)
      lowered = step_lib.lower_step(config, tx, abstract, mesh)
      made_of = executable_lib.fingerprint(config, lowered, mesh)
      train_step = executable_lib.load(executable, made_of, mesh)
    if online:
      loader = online_lib.Ahead(loader, online)

    with (
      metrics_lib.MetricWriter(
        workdir,
        start_step=start_step,
        num_steps=config.train.num_steps,
        name=config.stage.name,
        enabled=first_host,
      ) as writer,
      watchdog.Watchdog(
        workdir, jax.process_index(), config.train.stall_factor
      ) as watched,
      profile.Profiler(workdir, profile_steps, writer.say) as profiler,
      contextlib.ExitStack() as at_end,
    ):
      writer.say(reports.describe(config, mesh, state, start_step))
      if text := reports.warn_of_copies(state, mesh):
        writer.say(text)
      for line in found.damaged if found else ():
        writer.say(f'went on from step {start_step}, as {line}')
      if found and not found.said.identity:
        writer.say(
          f'the checkpoint of step {start_step} has no identity of its text '
          'encoder; this one is taken for it'
        )
      if first_host:
        path = storage.Path(workdir) / 'config.json'
        path.write_text(config_lib.to_json(config))
      cut = reports.Cut(store, online, config.text.max_length)
      cut.say(writer)
      interval = metrics_lib.Interval(config.train.batch_size, kept)
      skipped = skipped_lib.Skipped(workdir, jax.process_index())
      # With each checkpoint, and whatever ends the run: too many, for one.
      at_end.callback(lambda: skipped.write(loader.tally.listed()))
      saver = saving.Saver(
        checkpointer, config, identity, start_step, writer.say
      )
      held_up = 0.0
      waits = waits_lib.Waits(config.data)
      previous = None

      for step in range(start_step + 1, config.train.num_steps + 1):
        batch = _to_batch(next(loader))
        batch = sharding.put_batch(batch, mesh, config.mesh)
        profiler.before(step)
        with jax.transfer_guard('disallow'):
          state, metrics = train_step(state, batch)
        profiler.after(step, metrics)
        interval.add(metrics)
        # At most one step runs ahead of the host: more would only hold memory.
        jax.block_until_ready(previous)
        previous = metrics
        writer.advance()

        if _is_time(step, config.train.log_every, config):
          saver.look()
          _check_finite(interval, step, saver)
          values = interval.flush()
          waited, warning = waits.measure(loader.wait_seconds)
          values |= waited
          values['save_wait_seconds'] = saver.seconds - held_up
          held_up = saver.seconds
          read = read_before + _read(loader, config, rows)
          values |= reading.metrics(read, _tasks(config))
          writer.write(step, values)
          if warning:
            writer.say(warning)
          cut.say(writer)
        if sampler and _is_time(step, config.train.sample_every, config):
          samples = sampler.draw(state.ema_params)
          if first_host:
            writer.image(step, 'samples', *sampler.sheet(samples))
        signal = stopper.should_stop(step)
        if signal or saver.due(step):
          # A state that is past mending must not displace a good one.
          _check_finite(interval, step, saver)
          # Before the save: a run that resumes from it does not write these
          # metrics again, nor meet these records.
          writer.flush()
          skipped.write(loader.tally.listed())
          read = read_before + _read(loader, config, rows)
          position = {
            'loader': loader.state(),
            'interval': interval.state(),
            'read': reading.as_state(read, _tasks(config)),
          }
          saver.save(step, state, position)
        watched.beat(step)
        if signal or step == config.train.num_steps:
          saver.finish(step, state, position)
        if signal and step < config.train.num_steps:
          return Outcome(step, signal)
      read = read_before + _read(loader, config, rows)
      if left_out := reading.table(read, _tasks(config)):
        writer.say(f'records that were left out, on all hosts:\n{left_out}')
      # Their keys are known to the host that read them: see `skipped`.
      if loader.tally.table():
        writer.say(f'bad ones of the first host:\n{loader.tally.table()}')
  return Outcome(max(start_step, config.train.num_steps), None)


def _is_time(step, every, config):
  """Whether something done every so many steps, and at the end, is due."""
  return step % every == 0 or step == config.train.num_steps


def _check_finite(interval, step, saver):
  """Raises FloatingPointError where a step since the last check went wrong."""
  bad = interval.first_bad()
  if bad:
    ago, name, value = bad
    raise FloatingPointError(
      f'{name} is {value} at step {step - ago}, in the interval that ends with '
      f'step {step}; the last checkpoint is of step {saver.wait()}'
    )


def _tasks(config):
  """The names of the tasks, in an order that all hosts have."""
  return [task.name for task in config.data.tasks]


def _read(loader, config, rows):
  """Records that hosts have read since they started; see `reading`.

  Those of batches that are prepared ahead are among them: of each resume a few
  are counted twice.
  """
  copies = len(rows) * jax.process_count() // config.train.batch_size
  return reading.over_hosts(loader.tally.counts(), _tasks(config), copies)


def _to_batch(rows):
  """A loader's dict as a `structs.Batch` of host-local rows."""
  return structs.Batch(
    image=rows['image'],
    text=structs.TextCond(rows['text_embed'], rows['text_mask']),
    lowres=rows.get('lowres'),
  )


def _open_store(config):
  """The store of embeddings, which fits the config and its data.

  Raises:
    ValueError: where it does not, or captions are known to be missing.
  """
  store = store_lib.EmbeddingStore(config.text.store)
  store.check(config.text)
  store.check_covers(tasks_lib.captions(config))
  return store


def _make_sampler(config, store, online, mesh):
  """The sampler of held-out captions; None where `train.sample_every` is 0.

  Raises:
    ValueError: where a task has nothing held out.
  """
  if not config.train.sample_every:
    return None
  for name in tasks_lib.without_heldout(config):
    raise ValueError(
      f'train.sample_every is {config.train.sample_every}, but '
      f'data.tasks[{name}] has no {tasks_lib.HELDOUT!r} split; accepted: a '
      'dataset that has one, or train.sample_every=0'
    )
  num = config.train.num_samples
  some = dataclasses.replace(
    config, train=dataclasses.replace(config.train, batch_size=num)
  )
  with loader_lib.eval_batches(some, rows=range(num), store=store) as loader:
    examples = next(loader)
  if online:
    # Every host has all of them: what each computes is the same.
    embed, mask = online.lookup(examples['caption'])
    examples['text_embed'], examples['text_mask'] = embed, mask
  footer = tasks_lib.attribution(config)
  return samples_lib.Sampler(config, examples, mesh, footer=footer)
