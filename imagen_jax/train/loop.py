"""The training loop, for any stage, from the first step or a checkpoint."""

import dataclasses

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
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import optimizer
from imagen_jax.train import reading
from imagen_jax.train import reports
from imagen_jax.train import samples as samples_lib
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib
from imagen_jax.train import stopping


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
  config: config_lib.Config, workdir: str, *, allow_config_change=False
) -> Outcome:
  """Trains to `train.num_steps`, from the newest checkpoint where there is one.

  The result is a function of (config, seed, data): a resumed run repeats what
  the run it resumes would have done, on any mesh.

  Args:
    config: the run.
    workdir: a folder, local or in a bucket: checkpoints, metrics, samples.
    allow_config_change: resume although the config, or the text encoder that
      lies where it says, has changed.

  Raises:
    ValueError: where the config does not fit the machine, the data, the store
      or the checkpoint, or the text encoder is not the checkpoint's; before
      the first step.
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
    start_step = checkpointer.latest() or 0
    if start_step:
      found = checkpointer.identity(start_step)
      changes = config_lib.differences(checkpointer.config(start_step), config)
      changes += identity_lib.changes(found, identity) if found else []
      _check_changes(changes, allow_config_change)
    online = None
    if config.text.online:
      online = online_lib.Online(config.text, mesh)
    sampler = _make_sampler(config, store, online, mesh)

    tx = optimizer.make_optimizer(config)
    shardings = state_lib.state_shardings(config, tx, mesh)
    kept, read_before = [], reading.from_state({}, _tasks(config))
    if start_step:
      abstract = state_lib.abstract_state(config, tx, shardings)
      state, position = checkpointer.restore(start_step, abstract)
      loader.restore(position['loader'], allow_other_data=allow_config_change)
      kept = position['interval']
      # Checkpoints of before 0.1.0 do not have it.
      read_before = reading.from_state(position.get('read', {}), _tasks(config))
    else:
      state = state_lib.init_state(config, tx, shardings)
    train_step = step_lib.compile_step(config, tx, shardings, mesh)
    if online:
      loader = online_lib.Ahead(loader, online)

    with metrics_lib.MetricWriter(
      workdir,
      start_step=start_step,
      num_steps=config.train.num_steps,
      name=config.stage.name,
      enabled=first_host,
    ) as writer:
      writer.say(reports.describe(config, mesh, state, start_step))
      if text := reports.warn_of_copies(state, mesh):
        writer.say(text)
      if start_step and not found:
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
      saved, waited = start_step, 0.0
      previous = None

      for step in range(start_step + 1, config.train.num_steps + 1):
        batch = _to_batch(next(loader))
        batch = sharding.put_batch(batch, mesh, config.mesh)
        with jax.transfer_guard('disallow'):
          state, metrics = train_step(state, batch)
        interval.add(metrics)
        # At most one step runs ahead of the host: more would only hold memory.
        jax.block_until_ready(previous)
        previous = metrics
        writer.advance()

        if _is_time(step, config.train.log_every, config):
          _check_finite(interval, step, saved)
          values = interval.flush()
          values['data_wait_seconds'] = loader.wait_seconds - waited
          values |= reading.metrics(read_before + _read(loader, config, rows))
          waited = loader.wait_seconds
          writer.write(step, values)
          cut.say(writer)
        if sampler and _is_time(step, config.train.sample_every, config):
          samples = sampler.draw(state.ema_params)
          if first_host:
            writer.image(step, 'samples', *sampler.sheet(samples))
        signal = stopper.should_stop(step)
        if signal or _is_time(step, config.train.checkpoint_every, config):
          # A state that is past mending must not displace a good one.
          _check_finite(interval, step, saved)
          # Before the save: a run that resumes from it does not write these
          # metrics again.
          writer.flush()
          read = read_before + _read(loader, config, rows)
          position = {
            'loader': loader.state(),
            'interval': interval.state(),
            'read': reading.as_state(read, _tasks(config)),
          }
          checkpointer.save(state, position, config, identity)
          saved = step
        if signal and step < config.train.num_steps:
          return Outcome(step, signal)
      read = read_before + _read(loader, config, rows)
      if left_out := reading.table(read, _tasks(config)):
        writer.say(f'records that were left out, on all hosts:\n{left_out}')
      # Their keys are known to the host that read them.
      if loader.tally.table():
        writer.say(f'bad ones of the first host:\n{loader.tally.table()}')
  return Outcome(max(start_step, config.train.num_steps), None)


def _is_time(step, every, config):
  """Whether something done every so many steps, and at the end, is due."""
  return step % every == 0 or step == config.train.num_steps


def _check_finite(interval, step, saved):
  """Raises FloatingPointError where a step since the last check went wrong."""
  bad = interval.first_bad()
  if bad:
    ago, name, value = bad
    raise FloatingPointError(
      f'{name} is {value} at step {step - ago}, in the interval that ends with '
      f'step {step}; the last checkpoint is of step {saved}'
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


def _check_changes(changes, allowed):
  if changes and not allowed:
    raise ValueError(
      "the config differs from the checkpoint's: "
      + '; '.join(changes)
      + '; accepted: the same, another --workdir, or --allow-config-change'
    )
