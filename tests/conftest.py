"""What holds for every test: strict switches, and eight simulated devices.

The settings are made before JAX starts, and as environment variables where a
child process should have them as well.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import platform

import fake_gcs
import numpy as np
import pytest
import tokenizers


def _compilation_cache():
  """Folder of compiled programs, of this processor and no other.

  Compiled code may use whatever instructions the processor has, and a home
  folder may be shared by machines that differ in them.
  """
  cpu = pathlib.Path('/proc/cpuinfo')
  flags = {
    line
    for line in (cpu.read_text().splitlines() if cpu.exists() else ())
    if line.startswith(('flags', 'Features', 'model name'))
  }
  machine = f'{platform.machine()} {sorted(flags)}'
  name = hashlib.sha256(machine.encode()).hexdigest()[:16]
  root = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(root) / 'imagen_jax' / f'test-programs-{name}'


os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_compilation_cache()))
# All of them: there are thousands of small ones, the same in many tests.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
# Programs of tests run for milliseconds, and take seconds to make fast. On a
# busy machine simulated devices may wait for each other longer than XLA allows,
# which is 40 seconds, before it aborts the process.
_XLA = [
  '--xla_backend_optimization_level=0',
  '--xla_cpu_collective_call_terminate_timeout_seconds=600',
]
# Compiles in three fifths of the time. JAX 0.12 has no such flag, and its XLA
# would end the process.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _XLA.append('--xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('XLA_FLAGS', ' '.join(_XLA))
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

# Both import JAX, which reads the above as it is imported.
import golden_files  # noqa: E402
import jax  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_legacy_prng_key', 'error')
jax.config.update('jax_debug_key_reuse', True)


def pytest_collection_modifyitems(items):
  """Skips, with the reason, what needs a TPU where there is none."""
  marked = [item for item in items if item.get_closest_marker('tpu')]
  if marked and jax.default_backend() != 'tpu':
    for item in marked:
      item.add_marker(pytest.mark.skip(reason='needs a TPU'))


@pytest.fixture
def repo() -> pathlib.Path:
  """The checkout that the tests are part of."""
  return pathlib.Path(__file__).parent.parent


# A run of the smallest size, as a newcomer's is: a TFDS dataset, a store of
# embeddings, and config files for the command line.

TINY_CONFIG = """
from imagen_jax import config

DATA, STORE, CHECKPOINT, VOCABULARY = {places}
UNET = config.UNetConfig(
  channels=(8,), num_res_blocks=(1,), self_attention=(False,),
  text_attention=(True,), stem_stride=2, head_dim=8, embed_dim=16,
  num_groups=4, remat=False, dtype='float32',
)
DIFFUSION = config.DiffusionConfig(prediction='v', loss='eps')
SAMPLE = config.SampleConfig(sampler='ddim', num_steps=2, guidance_weight=2.0)
BASE = config.StageConfig('tiny16', 16, None, UNET, DIFFUSION, SAMPLE)
SR = config.StageConfig('tiny32', 32, 16, UNET, DIFFUSION, SAMPLE)
ROWS = {{'base': BASE, 'sr': SR}}


def get_config(row='base'):
  return config.Config(
    stage=ROWS[row],
    text=config.TextConfig(
      'minilm_l6', CHECKPOINT, VOCABULARY, max_length=6, embed_dim=8,
      store=STORE,
    ),
    data=config.DataConfig(
      tasks=(
        config.TaskConfig('some', DATA, rate=2.0),
        config.TaskConfig('same', DATA, rate=1.0),
      ),
      crop='random',
    ),
    optimizer=config.OptimizerConfig(
      name='adam', learning_rate=0.01, warmup_steps=2,
    ),
    train=config.TrainConfig(
      batch_size=8, num_steps=8, ema_decay=0.9, log_every=2,
      checkpoint_every=4, keep_checkpoints=3, sample_every=0, num_samples=8,
    ),
  )
"""


class TinyEncoder:
  """Stands in for a text encoder: embeds a token as a fixed random row."""

  row_multiple = 1

  def __init__(self, text, mesh=None):
    from imagen_jax.text import tokenizer

    self.tokenizer = tokenizer.load(text)
    self._max_length = text.max_length
    table = np.random.default_rng(0).normal(size=(997, text.embed_dim))
    self._table = table.astype(np.float32)

  def encode_tokens(self, tokens, mask):
    return self._table[tokens % len(self._table)] * mask[..., None]

  def encode(self, captions):
    from imagen_jax import structs

    tokens, mask, _ = self.tokenizer(captions, self._max_length)
    return structs.TextCond(self.encode_tokens(tokens, mask), mask)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
  """Config file of a run that takes seconds; `:base` and `:sr` are its rows."""
  from imagen_jax import config
  from imagen_jax.data import tasks
  from imagen_jax.synthetic import build
  from imagen_jax.text import identity
  from imagen_jax.text import write_store

  folder = tmp_path_factory.mktemp('tiny')
  build.build(
    'shapes', folder / 'shapes', num_examples=40, size=32, progress=False
  )
  golden_files.unpack(folder)
  # As many entries as the vocabulary has whose place it takes.
  model = tokenizers.models.WordLevel(
    {f'word{i}': i for i in range(30522)}, unk_token='word0'
  )
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split('', 'isolated')
  tokenizer.save(str(folder / 'tokenizer.json'))
  places = ('shapes', 'store', 't5x-tiny/t5_1_1', 'tokenizer.json')
  file = folder / 'tiny.py'
  places = tuple(str(folder / place) for place in places)
  file.write_text(TINY_CONFIG.format(places=places))

  cfg = config.load(str(file))
  write_store.write(
    places[1],
    tasks.captions(cfg),
    TinyEncoder(cfg.text),
    identity.of(cfg.text),
  )
  return str(file)


@pytest.fixture(scope='session')
def trained(tiny, tmp_path_factory):
  """Workdir of the base run, trained to its end without a stop."""
  import shared_programs

  from imagen_jax import config
  from imagen_jax.train import advance
  from imagen_jax.train import loop

  workdir = tmp_path_factory.mktemp('trained') / 'run'
  seen = ['sample_every=8', 'eval_every=4', 'num_eval_examples=12']
  cfg = config.override(config.load(tiny), [f'train.{each}' for each in seen])
  with shared_programs.shared():
    assert loop.train(cfg, str(workdir)) == advance.Outcome(8, None)
  return workdir


@pytest.fixture(scope='module')
def same_programs():
  """Has the runs of a file share their programs with others; see `shared`."""
  import shared_programs

  with shared_programs.shared():
    yield


@pytest.fixture
def tiny_encoder(monkeypatch):
  """Puts `TinyEncoder` in the place of the encoder that samplers build."""
  from imagen_jax.text import encoder

  monkeypatch.setattr(encoder, 'TextEncoder', TinyEncoder)
  return TinyEncoder


@pytest.fixture
def tiny_t5_xxl(tiny, monkeypatch):
  """Makes T5 XXL, where it is published, a golden T5 that takes letters.

  Returns:
    {address in a bucket: the local path that takes its place}, to be added to.
  """
  from letters import Letters

  from imagen_jax import storage
  from imagen_jax.text import encoders
  from imagen_jax.text import tokenizer as tokenizer_lib

  published = encoders.TABLE['t5_1_1_xxl'].checkpoint
  golden = pathlib.Path(tiny).parent / 't5x-tiny' / 't5_1_1'
  row = encoders.Encoder(
    't5',
    *(32, 2, 4, 8, 64),
    vocab_size=128,
    num_pieces=100,
    checkpoint=published,
  )
  monkeypatch.setitem(encoders.TABLE, 't5_1_1_xxl', row)
  monkeypatch.setattr(tokenizer_lib, 'load', lambda text: Letters())
  kvstore = storage.kvstore
  places = {published: str(golden / 'checkpoint_1000')}

  def local(path, *, folder):
    for address, place in places.items():
      path = path.replace(address, place)
    # What is left in a bucket is in a faked one, or it would take a network.
    assert '://' not in path or 'TENSORSTORE_GCS_HTTP_URL' in os.environ, path
    return kvstore(path, folder=folder)

  monkeypatch.setattr(storage, 'kvstore', local)
  return places


def _random(shapes, seed):
  """Float32 arrays of random numbers."""
  rng = np.random.default_rng(seed)
  draw = lambda s: jax.numpy.asarray(rng.normal(0, 0.2, s.shape), s.dtype)
  return jax.tree.map(draw, shapes)


@pytest.fixture(scope='session')
def workdirs(tiny, tmp_path_factory):
  """Workdirs, by row, with checkpoints 2 and 4 of random weights."""
  from imagen_jax import config
  from imagen_jax import sharding
  from imagen_jax.text import identity
  from imagen_jax.train import checkpoint
  from imagen_jax.train import state

  found = {}
  for row in ('base', 'sr'):
    cfg = config.load(f'{tiny}:{row}')
    found[row] = str(tmp_path_factory.mktemp('workdirs') / row)
    shapes = sharding.unbox(state.abstract_params(cfg))
    with checkpoint.Checkpointer(found[row]) as checkpointer:
      for step in (2, 4):
        params, ema_params = (_random(shapes, step + i) for i in (0, 100))
        saved = state.TrainState(jax.numpy.int32(step), params, ema_params, ())
        checkpointer.save(saved, {}, cfg, identity.of(cfg.text))
  return found


@pytest.fixture(scope='session')
def exports(workdirs, tmp_path_factory):
  """Exports, by row, of the newest checkpoints of `workdirs`."""
  from imagen_jax import export

  folder = tmp_path_factory.mktemp('exports')
  for row, workdir in workdirs.items():
    export.export_weights(workdir, str(folder / row))
  return {row: str(folder / row) for row in workdirs}


@pytest.fixture(scope='session')
def storage_server():
  """The one fake storage of this process; see `fake_gcs`.

  One, since TensorStore remembers where the first gs:// address led.
  """
  with fake_gcs.Server() as server, pytest.MonkeyPatch.context() as patch:
    for name, value in server.env.items():
      patch.setenv(name, value)
    yield server


@pytest.fixture
def bucket(storage_server, request):
  """A new, empty bucket of the fake storage: its name."""
  digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()
  name = f'bucket-{digest[:16]}'
  storage_server.buckets[name] = {}
  yield name
  storage_server.denied.clear()
  assert not storage_server.unknown


@pytest.fixture
def places(tiny, bucket, storage_server):
  """Flags of `train` that name the tiny run's data and store in a bucket."""
  folder = pathlib.Path(tiny).parent
  storage_server.upload(folder / 'shapes', bucket, 'pairs')
  storage_server.upload(folder / 'store', bucket, 'text')
  flags = ['--config', tiny, '--set', f'text.store=gs://{bucket}/text']
  for task in ('some', 'same'):
    flags += ['--set', f'data.tasks.{task}.path=gs://{bucket}/pairs']
  return flags
