"""The training loop, for any stage, from the first step or a checkpoint."""

import contextlib
import functools
import sys

import jax

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax import storage
from imagen_jax.data import loader as loader_lib
from imagen_jax.text import identity as identity_lib
from imagen_jax.text import online as online_lib
from imagen_jax.train import advance
from imagen_jax.train import checkpoint
from imagen_jax.train import executable as executable_lib
from imagen_jax.train import exhausted
from imagen_jax.train import finished
from imagen_jax.train import goodput as goodput_lib
from imagen_jax.train import guard as guard_lib
from imagen_jax.train import maintenance as maintenance_lib
from imagen_jax.train import mfu
from imagen_jax.train import opening
from imagen_jax.train import optimizer
from imagen_jax.train import passing as passing_lib
from imagen_jax.train import profile
from imagen_jax.train import start as start_lib
from imagen_jax.train import state as state_lib
from imagen_jax.train import step as step_lib
from imagen_jax.train import stopping
from imagen_jax.train import views as views_lib
from imagen_jax.train import wandb_log


def train(
  config: config_lib.Config,
  workdir: str,
  *,
  allow_config_change=False,
  profile_steps: tuple[int, int] | None = None,
  executable: str | None = None,
  maintenance: bool = False,
  wandb: str | None = None,
  begun: float | None = None,
) -> advance.Outcome:
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
    maintenance: heed the platform's notices; see `train/maintenance.py`.
    wandb: the project at Weights & Biases that gets the metrics, too; None is
      none.
    begun: when this process began with the run, in seconds since 1970; None is
      now.

  Raises:
    ValueError: where the config does not fit the machine, its memory, the
      data, the store or the checkpoint, the text encoder is not the
      checkpoint's, or the executable is of another step; before the first step,
      but for memory that only the first step finds too small.
    FloatingPointError: where a step is bad, and `guard` does not go on, before
      the next line of metrics or checkpoint is written.
    OSError: where the workdir cannot be written.
  """
  goodput = goodput_lib.Goodput(begun)
  first_host = jax.process_index() == 0
  if first_host:
    storage.check_writable(workdir, '--workdir')
    if wandb:
      wandb_log.check()
  mesh = sharding.make_mesh(config.mesh)
  rows = sharding.local_rows(mesh, config.train.batch_size, config.mesh)
  store = None if config.text.online else opening.open_store(config)
  identity = (
    store.manifest['identity'] if store else identity_lib.of(config.text)
  )

  with (
    profile.Asker() as asker,
    sharding.use_mesh(mesh, config.mesh),
    checkpoint.Checkpointer(workdir, config=config) as checkpointer,
    loader_lib.training_batches(config, rows=rows, store=store) as loader,
    stopping.Stopper() as stopper,
    maintenance_lib.Notices() if maintenance else contextlib.nullcontext(),
  ):
    tx = optimizer.make_optimizer(config)
    shardings = state_lib.state_shardings(config, tx, mesh)
    abstract = state_lib.abstract_state(config, tx, shardings)
    exhausted.check(config, tx, mesh)
    passing = passing_lib.Passing(config.guard, workdir, jax.process_index())
    beginner = start_lib.Beginner(
      config,
      checkpointer,
      loader,
      passing,
      tx=tx,
      mesh=mesh,
      count=lambda: advance.count_read(loader, config, rows),
    )
    begin = functools.partial(
      beginner.first, identity, allow_change=allow_config_change
    )
    start = None
    newest = checkpointer.latest()
    if newest is not None and newest >= config.train.num_steps:
      # What steps and views need is made only if that checkpoint is damaged.
      with exhausted.explained(config, tx, mesh):
        start = begin()
      if start.step >= config.train.num_steps:
        finished.say_end(config, workdir, start, wandb, first_host)
        return advance.Outcome(start.step, None)
    online = None
    if config.text.online:
      online = online_lib.Online(config.text, mesh)
    views = views_lib.Views(
      config,
      mesh,
      store=store,
      online=online,
      identity=identity,
      first_host=first_host,
    )
    goodput.spent('start')
    lowered = step_lib.lower_step(config, tx, abstract, mesh)
    train_step = None
    if executable:
      made_of = executable_lib.fingerprint(config, lowered, mesh)
      train_step = executable_lib.load(executable, made_of, mesh)
      goodput.spent('compile')
    with exhausted.explained(config, tx, mesh):
      start = start or begin()
      goodput.spent('restore')
      if train_step is None:
        if first_host:
          print(f'{config.stage.name}: compiling the step', file=sys.stderr)
        # Ahead of the first batch, as what it takes of a device is known then.
        train_step = lowered.compile()
      exhausted.check_step(train_step, config, tx, mesh)
      goodput.spent('compile')
    if first_host:
      text = config_lib.to_json(config)
      storage.write(
        storage.Path(workdir) / 'config.json', text.encode(), '--workdir'
      )
    run = advance.Run(
      config,
      workdir,
      mesh,
      rows,
      store,
      online,
      views,
      loader,
      checkpointer,
      identity,
      stopper,
      passing,
      train_step,
      guard_lib.compile_pass(shardings),
      profile_steps,
      asker,
      first_host,
      goodput,
      mfu.Meter(config, mesh.devices.flat, enabled=first_host),
      wandb,
    )
    with exhausted.explained(config, tx, mesh):
      while not isinstance(
        ended := advance.advance(run, start), advance.Outcome
      ):
        start = beginner.again(ended)
        goodput.spent('restore')
    return ended
