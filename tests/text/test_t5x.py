"""T5X itself beside ours, where it is installed: the extra `t5x`.

In a process of its own: `import t5x` brings TensorFlow, and warnings that are
errors here.
"""

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('t5x') is None,
    reason='needs T5X (docs/encoders.md)',
  ),
]

# T5X reads the checkpoint and encodes by its own code alone.
THEIRS = """
import json, sys
import numpy as np
from t5x import checkpoints
from t5x.examples.t5 import network

folder, config, batch = sys.argv[1:]
config = json.load(open(config))['config']
state = checkpoints.load_t5x_checkpoint(folder)
module = network.Transformer(network.T5Config(
  vocab_size=config['vocab_size'],
  emb_dim=config['emb_dim'],
  num_heads=config['num_heads'],
  num_encoder_layers=config['num_encoder_layers'],
  num_decoder_layers=1,
  head_dim=config['head_dim'],
  mlp_dim=config['mlp_dim'],
  mlp_activations=tuple(config['mlp_activations']),
  dropout_rate=0.0,
))
tokens = np.load(batch)
outputs = module.apply(
  {'params': state['target']}, tokens, enable_dropout=False, method='encode'
)
np.save(batch, np.asarray(outputs))
"""


@pytest.mark.parametrize('name', ['t5_1_1', 't5_1_1_bf16', 't5_1_0'])
def test_t5x_encodes_the_same(golden, golden_folder, tmp_path, name):
  import jax
  import numpy as np

  from imagen_jax import sharding
  from imagen_jax.text import encoders
  from imagen_jax.text import restore

  checkpoint, row, _ = golden(name)
  # Not the golden batches: another seed, and lengths from one token to all.
  rng = np.random.default_rng(7)
  mask = np.arange(24) < np.array([[1], [5], [13], [24]])
  tokens = rng.integers(1, 128, (4, 24), np.int32) * mask

  batch = tmp_path / 'batch.npy'
  np.save(batch, tokens)
  config = golden_folder / name / 'config.json'
  done = subprocess.run(
    [sys.executable, '-c', THEIRS, checkpoint, str(config), str(batch)],
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  theirs = np.load(batch)

  params = restore.restore_encoder(
    checkpoint, sharding.unbox(encoders.abstract_params(row))
  )
  apply = jax.jit(encoders.build(row).apply)
  ours = np.asarray(apply({'params': params}, tokens, mask))
  assert json.loads(config.read_text())['config']['num_heads'] == row.num_heads
  np.testing.assert_allclose(ours[mask], theirs[mask], rtol=0, atol=2e-5)
