"""Speed of the T5 encoder and of restoring it, against their peers.

    python benchmarks/text_encoder.py

In one process, with the same random weights (a synthetic T5X checkpoint) and
the same padded batch, float32: our encoder, T5X's own module where `t5x` is
installed, and `transformers`' T5EncoderModel in PyTorch where that is. They
take turns, so that a busy machine is as unkind to each; a row has the median of
the rounds, and the ratios are ours to theirs, by time and by the processor
time that was spent (which tells more where other work runs). Outputs on real
tokens must agree to 1e-3 of the largest.

Then bytes/s of restoring into one device against TensorStore alone reading the
same arrays, in turns as well.
"""

import argparse
import importlib
import importlib.util
import pathlib
import statistics
import sys
import tempfile
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import synthetic_checkpoint
import tensorstore as ts

from imagen_jax import sharding
from imagen_jax.text import encoders
from imagen_jax.text import restore

_PAUSE = 0.3  # Seconds until the threads of the one before have gone to sleep.


def flat(params) -> dict[str, np.ndarray]:
  """Returns {T5X's name: array}."""
  return {
    '/'.join(key.key for key in path): np.asarray(leaf)
    for path, leaf in jax.tree.leaves_with_path(params)
  }


def ours(row, params, tokens, mask):
  """Returns a call that encodes once, and returns [B, L, D]."""
  module = encoders.build(row)
  apply = jax.jit(lambda p, t, m: module.apply({'params': p}, t, m))
  return lambda: np.asarray(apply(params, tokens, mask))


def t5x_module(row, params, tokens, mask):
  """Like `ours`, by T5X's module, which makes the mask of the tokens."""
  del mask
  network = _t5x_network()

  gated, _, activation = row.activation.rpartition('-')
  config = network.T5Config(
    vocab_size=row.vocab_size,
    emb_dim=row.embed_dim,
    num_heads=row.num_heads,
    num_encoder_layers=row.num_layers,
    num_decoder_layers=1,
    head_dim=row.head_dim,
    mlp_dim=row.mlp_dim,
    mlp_activations=(activation, 'linear') if gated else (activation,),
    dropout_rate=0.0,
  )
  module = network.Transformer(config)
  apply = jax.jit(
    lambda p, t: module.apply(
      {'params': p}, t, enable_dropout=False, method='encode'
    )
  )
  return lambda: np.asarray(apply(params, tokens))


def _t5x_network():
  """Returns `t5x.examples.t5.network` without what `import t5x` does.

  The package imports its trainer, and that TensorFlow, which takes a minute and
  does not live with PyTorch in one process; the network needs neither.
  """
  package = types.ModuleType('t5x')
  spec = importlib.util.find_spec('t5x')
  package.__path__ = list(spec.submodule_search_locations)
  sys.modules['t5x'] = package
  return importlib.import_module('t5x.examples.t5.network')


def torch_module(row, params, tokens, mask):
  """Like `ours`, by `transformers`."""
  import torch
  import transformers

  config = transformers.T5Config(
    vocab_size=row.vocab_size,
    d_model=row.embed_dim,
    d_kv=row.head_dim,
    d_ff=row.mlp_dim,
    num_layers=row.num_layers,
    num_heads=row.num_heads,
    feed_forward_proj=row.activation,
  )
  model = transformers.T5EncoderModel(config).eval()
  names = {
    'token_embedder/embedding': 'shared',
    'encoder/encoder_norm/scale': 'encoder.final_layer_norm',
    'encoder/relpos_bias/rel_embedding': (
      'encoder.block.0.layer.0.SelfAttention.relative_attention_bias'
    ),
  }
  inside = {
    'pre_attention_layer_norm/scale': '0.layer_norm',
    'attention/query/kernel': '0.SelfAttention.q',
    'attention/key/kernel': '0.SelfAttention.k',
    'attention/value/kernel': '0.SelfAttention.v',
    'attention/out/kernel': '0.SelfAttention.o',
    'pre_mlp_layer_norm/scale': '1.layer_norm',
    'mlp/wi/kernel': '1.DenseReluDense.wi',
    'mlp/wi_0/kernel': '1.DenseReluDense.wi_0',
    'mlp/wi_1/kernel': '1.DenseReluDense.wi_1',
    'mlp/wo/kernel': '1.DenseReluDense.wo',
  }
  state = {}
  for name, value in flat(params).items():
    theirs = names.get(name)
    if theirs is None:
      _, layer, rest = name.split('/', 2)
      number = layer.removeprefix('layers_')
      theirs = f'encoder.block.{number}.layer.{inside[rest]}'
    if value.ndim == 2 and theirs != 'shared':
      value = value.T
    state[f'{theirs}.weight'] = torch.from_numpy(np.array(value))
  missing, extra = model.load_state_dict(state, strict=False)
  assert not extra, extra
  assert set(missing) <= {'encoder.embed_tokens.weight'}, missing
  ids = torch.from_numpy(tokens.astype(np.int64))
  real = torch.from_numpy(mask.astype(np.int64))

  def encode():
    with torch.inference_mode():
      return model(input_ids=ids, attention_mask=real)[0].numpy()

  return encode


def timed(call) -> tuple[float, float]:
  """Returns seconds and processor seconds of a call."""
  time.sleep(_PAUSE)
  start, spent = time.perf_counter(), time.process_time()
  call()
  return time.perf_counter() - start, time.process_time() - spent


def medians(calls, rounds) -> dict[str, tuple[float, float]]:
  """Returns medians of seconds and processor seconds; calls take turns."""
  taken = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      taken[name].append(timed(call))
  return {
    name: tuple(statistics.median(column) for column in zip(*each))
    for name, each in taken.items()
  }


def compare_encoders(row, params, rows, length, rounds):
  """Prints the table of encoders."""
  rng = np.random.default_rng(0)
  lengths = np.linspace(length // 4, length, rows).astype(int)
  mask = np.arange(length) < lengths[:, None]
  tokens = rng.integers(2, row.num_pieces, (rows, length), np.int32) * mask
  makers = {'ours': ours}
  if importlib.util.find_spec('t5x'):
    makers['T5X'] = t5x_module
  if importlib.util.find_spec('transformers'):
    makers['PyTorch'] = torch_module
  calls = {
    name: make(row, params, tokens, mask) for name, make in makers.items()
  }
  outputs = {name: call()[mask] for name, call in calls.items()}
  for name, output in outputs.items():
    worst = np.abs(output - outputs['ours']).max()
    assert worst <= 1e-3 * np.abs(outputs['ours']).max(), (name, worst)
  found = medians(calls, rounds)
  mine, my_cpu = found['ours']
  print(f'batch {rows} x {length}, {mask.sum()} real tokens, float32')
  print('| encoder | s a batch | tokens/s | ours to it | by processor time |')
  print('| --- | --- | --- | --- | --- |')
  for name, (seconds, cpu) in found.items():
    print(
      f'| {name} | {seconds:.3f} | {tokens.size / seconds:.0f} | '
      f'{seconds / mine:.2f}x | {cpu / my_cpu:.2f}x |'
    )


def compare_restoring(folder, row, size, rounds):
  """Prints the table of restoring."""
  wanted = sharding.unbox(encoders.abstract_params(row))
  names = synthetic_checkpoint.shapes(row)

  def bare():
    opened = [
      ts.open(
        {
          'driver': 'zarr',
          'kvstore': {
            'driver': 'file',
            'path': f'{folder}/target.{name.replace("/", ".")}/',
          },
        },
        open=True,
        read=True,
      )
      for name in names
    ]
    reading = [array.result().read() for array in opened]
    return [each.result() for each in reading]

  restored = lambda: jax.block_until_ready(
    restore.restore_encoder(str(folder), wanted)
  )
  found = medians({'ours': restored, 'TensorStore alone': bare}, rounds)
  print(f'\nrestoring {size / 1e6:.0f} MB of float32')
  print('| reader | s | MB/s | ours to it |')
  print('| --- | --- | --- | --- |')
  for name, (seconds, _) in found.items():
    print(
      f'| {name} | {seconds:.2f} | {size / seconds / 1e6:.0f} | '
      f'{seconds / found["ours"][0]:.2f}x |'
    )


def main():
  """Prints both tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--encoder', default='t5_1_1_base')
  parser.add_argument('--rows', type=int, default=8)
  parser.add_argument('--length', type=int, default=128)
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  row = encoders.get(args.encoder)
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch) / 'checkpoint_1'
    size = synthetic_checkpoint.write(folder, row)
    params = restore.restore_encoder(
      str(folder), sharding.unbox(encoders.abstract_params(row))
    )
    params = jax.tree.map(jnp.asarray, params)
    compare_encoders(row, params, args.rows, args.length, args.rounds)
    compare_restoring(folder, row, size, args.rounds)


if __name__ == '__main__':
  main()
