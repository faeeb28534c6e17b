"""What int8 in the store does to embeddings, and to the loss of a stage.

    python benchmarks/int8.py --config configs/tiny_base.py --steps 400 \
        --set data.tasks.shapes.path=... --set data.tasks.openmoji.path=...

Encodes the config's captions twice, bfloat16 and int8, compares the embeddings
of every token, and trains the stage from each store with the same seed, so that
the same pictures meet the same noise. A second bfloat16 run with another seed
says how much a loss differs by chance alone.
"""

import argparse
import json
import os
import tempfile

import numpy as np


def cosines(stores, sources, max_length):
  """Returns the cosine of each token between two stores, float64 [n]."""
  found = []
  for source in sources:
    captions = list(dict.fromkeys(source.read(range(len(source)))))
    for first in range(0, len(captions), 256):
      part = captions[first : first + 256]
      embed, mask = stores[0].lookup(part, max_length)
      other, _ = stores[1].lookup(part, max_length)
      a, b = embed[mask].astype(np.float64), other[mask].astype(np.float64)
      norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
      found.append((a * b).sum(-1) / norms)
  return np.concatenate(found)


def main():
  """Prints the cosines and the losses."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--config', default='configs/tiny_base.py')
  parser.add_argument('--set', action='append', default=[])
  parser.add_argument('--steps', type=int, default=400)
  args = parser.parse_args()

  from imagen_jax import config as config_lib
  from imagen_jax.cli import devices

  config = config_lib.override(
    config_lib.load(args.config),
    [
      *args.set,
      f'train.num_steps={args.steps}',
      f'train.log_every={args.steps // 4}',
      f'train.checkpoint_every={args.steps}',
      'train.sample_every=0',
      'train.eval_every=0',
    ],
  )
  devices.start(config.mesh.simulated_devices)

  from imagen_jax.data import tasks
  from imagen_jax.text import encoder as encoder_lib
  from imagen_jax.text import identity
  from imagen_jax.text import store as store_lib
  from imagen_jax.text import write_store
  from imagen_jax.train import loop

  with tempfile.TemporaryDirectory() as folder:
    encoder = encoder_lib.TextEncoder(config.text)
    configs = {}
    for name in ('bfloat16', 'int8'):
      store = os.path.join(folder, name)
      changed = config_lib.override(
        config, [f'text.stored_dtype={name}', f'text.store={store}']
      )
      configs[name] = changed
      said = identity.of(changed.text)
      sources = tasks.captions(changed)
      write_store.write(store, sources, encoder, said, rows=config.text.rows)
    configs['bfloat16, another seed'] = config_lib.override(
      configs['bfloat16'], ['train.seed=1']
    )
    stores = [
      store_lib.EmbeddingStore(configs[name].text.store)
      for name in ('bfloat16', 'int8')
    ]
    cosine = cosines(stores, tasks.captions(config), config.text.max_length)
    print(
      f'{len(cosine)} tokens of {config.text.encoder}: cosine '
      f'{cosine.mean():.6f} on average, {cosine.min():.6f} at least\n'
    )
    print('| store | loss by quarter of the steps |')
    print('| --- | --- |')
    for name, each in configs.items():
      workdir = os.path.join(folder, 'run', name)
      loop.train(each, workdir)
      with open(os.path.join(workdir, 'metrics.jsonl')) as file:
        losses = [json.loads(line)['loss'] for line in file]
      print(f'| {name} | {", ".join(f"{loss:.5f}" for loss in losses)} |')


if __name__ == '__main__':
  main()
