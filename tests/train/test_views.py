"""What a run shows of its weights: when, of which, and each step once."""

import functools
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from imagen_jax import config as config_lib
from imagen_jax import evaluate
from imagen_jax import export
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.data import loader as loader_lib
from imagen_jax.diffusion import process
from imagen_jax.text import store as store_lib
from imagen_jax.train import loop
from imagen_jax.train import state as state_lib
from imagen_jax.train import views as views_lib

pytestmark = pytest.mark.usefixtures('same_programs')

# As of `trained`.
SEEN = ('sample_every=8', 'eval_every=4', 'num_eval_examples=12')


def config(tiny, *assignments):
  assignments = [f'train.{each}' for each in assignments]
  return config_lib.override(config_lib.load(tiny), assignments)


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_losses_are_of_both_weights_as_they_were_saved(tiny, trained, runs):
  """Of a run in batches of eight on eight devices; here all on one."""
  cfg = config(tiny, *SEEN, 'batch_size=12', 'seed=5')
  store = store_lib.EmbeddingStore(cfg.text.store)
  with loader_lib.eval_batches(cfg, rows=range(12), store=store) as loader:
    batch = structs.Batch.of(next(loader))
  seen, state = runs.seen(trained), runs.state(trained, 4)
  assert seen.keys() == {4, 8}
  assert {name for name in seen[8] if name not in seen[4]} == {
    f'{prefix}_{what}'
    for prefix in ('sample', 'sample_ema')
    for what in ('shift_r', 'shift_g', 'shift_b', 'contrast')
  }
  errors = jax.jit(functools.partial(evaluate.errors, config=cfg))
  for prefix, params in (
    ('eval', state.params),
    ('eval_ema', state.ema_params),
  ):
    found = np.mean(errors(params, batch, 0, np.float32(3)))
    wanted = seen[4][f'{prefix}_loss/snr_3']
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
  assert seen[4]['eval_loss'] != seen[4]['eval_ema_loss']
  assert seen[4]['eval_loss'] != seen[8]['eval_loss']


def test_a_resumed_run_sees_the_same_once(tiny, trained, runs, tmp_path):
  """Killed after it was seen at step 8, before that was saved."""
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  shutil.rmtree(run / 'checkpoints' / '8')
  assert loop.train(config(tiny, *SEEN), str(run)).step == 8
  assert runs.seen(run) == runs.seen(trained)
  name = 'samples/step_00000008.png'
  assert (run / name).read_bytes() == (trained / name).read_bytes()
  events = event_accumulator.EventAccumulator(str(run / 'tensorboard'))
  events.Reload()
  for name, value in runs.seen(trained)[8].items():
    found = events.Scalars(name)
    steps = [4, 8] if name.startswith('eval') else [8]
    assert [event.step for event in found] == steps
    np.testing.assert_allclose(found[-1].value, value, rtol=1e-6)
  assert len(events.Images('samples')) == 1


def test_what_is_seen_between_lines_has_one_of_its_own(tiny, tmp_path):
  asked = ('num_steps=4', 'log_every=4', 'eval_every=3', 'num_eval_examples=9')
  loop.train(config(tiny, *asked, 'eval_logsnr=[1.5]'), str(tmp_path))
  between, last = lines(tmp_path)
  assert between.keys() == {
    'step',
    'time',
    'eval_loss',
    'eval_x_loss',
    'eval_loss/snr_1.5',
    'eval_x_loss/snr_1.5',
    'eval_ema_loss',
    'eval_ema_x_loss',
    'eval_ema_loss/snr_1.5',
    'eval_ema_x_loss/snr_1.5',
  }
  assert between['step'] == 3
  assert last['step'] == 4
  assert {'loss', 'eval_loss'} < last.keys()
  assert not (tmp_path / 'samples').exists()


class Network:
  """Sees a grey where it is a base, or else a share of its low-res input."""

  def __init__(self, stage, params):
    self.kind, self.params = stage.diffusion.prediction, params

  def __call__(self, z, logsnr, cond):
    x = jnp.full_like(z, 0.25)
    if cond.lowres is not None:
      x = self.params['share'] * cond.lowres
    return process.from_x(self.kind, x, z, logsnr)


def test_what_stages_in_front_make_is_shown_and_measured(
  tiny, exports, monkeypatch
):
  monkeypatch.setattr(state_lib, 'bind', Network)
  front = json.dumps([exports['base']])
  asked = ('num_steps=9', 'sample_every=3', f'sample_lowres={front}')
  cfg = config(f'{tiny}:sr', *asked)
  cfg = config_lib.override(
    cfg, ['stage.sample.aug_level=0', 'stage.sample.guidance_weight=1']
  )
  mesh = sharding.make_mesh(cfg.mesh)
  views = views_lib.Views(
    cfg,
    mesh,
    store=store_lib.EmbeddingStore(cfg.text.store),
    online=None,
    identity=export.load_weights(exports['base']).text_identity,
    first_host=False,
  )
  assert [step for step in range(1, 10) if views.due(step)] == [3, 6, 9]
  share = lambda value: {'share': jnp.float32(value)}
  state = types.SimpleNamespace(params=share(1), ema_params=share(0.5))
  with sharding.use_mesh(mesh, cfg.mesh):
    seen = views.look(3, state, writer=None)
  for channel in 'rgb':
    # What is shrunk and enlarged again keeps its mean colour.
    shift = seen[f'sample_lowres_shift_{channel}']
    assert abs(shift) > 0.05
    assert abs(seen[f'sample_shift_{channel}']) < 0.01
    gap = seen[f'sample_gap_shift_{channel}']
    np.testing.assert_allclose(gap, shift, atol=0.01)
    halved = seen[f'sample_ema_gap_shift_{channel}']
    np.testing.assert_allclose(halved, shift / 2, atol=0.01)
  # A grey has no contrast, wherever it comes from.
  for name in ('sample_gap_contrast', 'sample_lowres_contrast'):
    assert seen[name] < 0.01
  contrasts = seen['sample_ema_contrast'], seen['sample_contrast'] / 2
  np.testing.assert_allclose(*contrasts, rtol=0.02)
