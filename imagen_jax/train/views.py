"""What a run shows of its weights now and then, by pictures that it never saw.

Of the raw weights and of the averaged ones: the loss on held-out examples, a
sheet of samples, and how far their colours are from those of data.
"""

import dataclasses

from imagen_jax import config as config_lib
from imagen_jax import evaluate
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.data import loader as loader_lib
from imagen_jax.data import tasks as tasks_lib
from imagen_jax.train import lowres
from imagen_jax.train import samples as samples_lib


class Views:
  """Looks at a run's weights, at steps that the config says.

  To be made and used on every host. Weights of stages in front are drawn with
  when it is made, and let go: make it before the state takes its memory.

  Args:
    config: the run.
    mesh: the run's.
    store: of the embeddings; None where they are computed.
    online: `text.online.Online` that computes them; None where there is a
      store.
    identity: of the text encoder.
    first_host: whether this is the one that writes sheets.

  Raises:
    ValueError: where something is to be looked at and nothing is held out,
      levels of noise are not trained, or `train.sample_lowres` does not fit.
  """

  def __init__(
    self,
    config: config_lib.Config,
    mesh,
    *,
    store,
    online,
    identity,
    first_host: bool,
  ):
    self._config, self._online = config, online
    self._first_host = first_host
    train = config.train
    if train.sample_every:
      _check_heldout(config, 'sample_every')
      self._sampler = _sampler(config, mesh, store, online, identity)
    if train.eval_every:
      _check_heldout(config, 'eval_every')
      evaluate.check(config)
      size = evaluate.batch_size(
        config, sharding.num_batch_shards(mesh, config.mesh)
      )
      self._loader = loader_lib.eval_batches(
        _with_batch(config, size),
        rows=sharding.local_rows(mesh, size, config.mesh),
        store=store,
      )
      self._start = self._loader.state()
      self._evaluator = evaluate.Evaluator(config, mesh, self._batches)

  def due(self, step: int) -> bool:
    """Whether `look` is to be called after a step."""
    return self._samples(step) or self._measures(step)

  def look(self, step: int, state, writer) -> dict[str, float]:
    """Metrics of a state, to be written with the step's; sheets are written.

    Args:
      step: which is `due`.
      state: after it.
      writer: `metrics.MetricWriter`.
    """
    values = {}
    if self._measures(step):
      weights = {'eval': state.params, 'eval_ema': state.ema_params}
      values |= self._evaluator.measure(weights)
    if self._samples(step):
      raw = self._sampler.draw(state.params)
      averaged = self._sampler.draw(state.ema_params)
      drawn = {'sample': raw, 'sample_ema': averaged}
      values |= self._sampler.metrics(drawn)
      if self._first_host:
        drawn = {'raw weights': raw, 'EMA weights': averaged}
        writer.image(step, 'samples', *self._sampler.sheet(drawn))
    return values

  def _samples(self, step):
    return self._is_time(step, self._config.train.sample_every)

  def _measures(self, step):
    return self._is_time(step, self._config.train.eval_every)

  def _is_time(self, step, every):
    if not every:
      return False
    return step % every == 0 or step == self._config.train.num_steps

  def _batches(self):
    """This host's held-out batches, read anew: they are too many to keep."""
    self._loader.restore(self._start)
    try:
      for rows in self._loader:
        if self._online:
          found = self._online.lookup(rows['caption'])
          rows['text_embed'], rows['text_mask'] = found
        yield structs.Batch.of(rows)
    finally:
      self._loader.close()


def _check_heldout(config, field):
  every = getattr(config.train, field)
  for name in tasks_lib.without_heldout(config):
    raise ValueError(
      f'train.{field} is {every}, but data.tasks[{name}] has no '
      f'{tasks_lib.HELDOUT!r} split; accepted: a dataset that has one, or '
      f'train.{field}=0'
    )


def _with_batch(config, size):
  """The config of a loader of `size` examples a batch."""
  train = dataclasses.replace(config.train, batch_size=size, microbatches=1)
  return dataclasses.replace(config, train=train)


def _sampler(config, mesh, store, online, identity):
  """The sampler of `train.num_samples` held-out captions."""
  stages = []
  if config.train.sample_lowres:
    stages = lowres.load(config, identity)
  num = config.train.num_samples
  some = _with_batch(config, num)
  with loader_lib.eval_batches(some, rows=range(num), store=store) as loader:
    examples = next(loader)
  if online:
    # Every host has all of them: what each computes is the same.
    embed, mask = online.lookup(examples['caption'])
    examples['text_embed'], examples['text_mask'] = embed, mask
  generated = None
  if stages:
    generated = lowres.draw(stages, config, mesh, examples)
  footer = tasks_lib.attribution(config)
  return samples_lib.Sampler(
    config, examples, mesh, footer=footer, generated=generated
  )
