r"""Trains the quickstart's cascade with each target; draws with each sampler.

    python benchmarks/targets.py --quickstart quickstart --out targets

takes data and embeddings from what `bash launch/quickstart.sh` left, trains
both stages once a target (ten minutes each on two cores), and scores the same
held-out captions with every sampler. `--num-steps BASE SR` trains them for
other numbers of steps, such as half, in less time. Prints two tables in
Markdown: what each target reaches with the stages' own samplers, and the shapes
that are right by target and sampler. What OUT has already is not done again.

Every layer of the quick base is coarser than its picture, which is no net for
eps. So eps is trained twice: as the others are, and as eps-fine, with a base of
the picture's own size (and the super-resolution stage of x).

The stages' own samplers are DDIM in the base and ancestral in the
super-resolution stage.

The target edm is trained on the schedule edm, the others on the cosine: its row
is of both. That schedule goes by time from a noise
by signal of exp(10), where there is nothing to see; so the other samplers draw
it by Karras's steps, from 80. The stages' own go by time, as they are.
"""

import argparse
import json
import pathlib
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parent.parent

STAGES = {'base': 'configs/tiny_base.py', 'sr': 'configs/tiny_sr.py'}
# What each target sets; the quickstart's own is x.
TARGETS = {
  'x': {'prediction': 'x', 'loss': 'x'},
  'v': {'prediction': 'v', 'loss': 'v'},
  'eps': {'prediction': 'eps', 'loss': 'eps'},
  'edm': {'prediction': 'edm', 'loss': 'edm', 'schedule': 'edm'},
}
FINE = 'eps-fine'
# Its base: as many steps as take the time of two of the others.
FINE_BASE = {
  'stage.diffusion.prediction': 'eps',
  'stage.diffusion.loss': 'eps',
  'stage.unet.stem_stride': 1,
  'stage.unet.channels': [32, 96],
  'stage.unet.num_res_blocks': [1, 1],
  'stage.unet.self_attention': '[false,true]',
  'stage.unet.text_attention': '[false,true]',
  'train.num_steps': 3000,
}
# Rows of `steps.py`: the stages' own, then about as many calls of the others.
SAMPLERS = (
  'own',
  'ancestral:64,32',
  'ddim:24,12',
  'dpmpp:12,6',
  'dpmpp_sde:24,12',
  'heun+karras:24,12',
)
COLUMNS = (
  ('shapes', 'colour'),
  ('shapes', 'shape'),
  ('shapes', 'position'),
  ('openmoji', 'background'),
  ('openmoji', 'top1'),
  ('openmoji', 'top5'),
)


def rows(target):
  """The row of `steps.py` that each of `SAMPLERS` is for a target."""
  if target != 'edm':
    return {row: row for row in SAMPLERS}
  by_sigma = lambda row: row if '+' in row else row.replace(':', '+karras:')
  return {row: by_sigma(row) for row in SAMPLERS}


def fields_of(target, stage):
  """What is set for a target's stage, of its config."""
  if target == FINE:
    if stage == 'base':
      return dict(FINE_BASE)
    target = 'x'
  return {f'stage.diffusion.{k}': v for k, v in TARGETS[target].items()}


def folder_of(target, out, num_steps):
  """Where a target's runs lie, by how long they are trained."""
  return out / '-'.join(map(str, (target, *(num_steps or ()))))


def run(*command):
  """Runs a command of this project, or stops."""
  print('+', *command, flush=True)
  subprocess.run([sys.executable, *map(str, command)], cwd=REPO, check=True)


def train(target, quickstart, folder, num_steps):
  """Trains and exports both stages; returns the folders of their weights."""
  places = {
    'data.tasks.shapes.path': quickstart / 'data/shapes',
    'data.tasks.openmoji.path': quickstart / 'data/openmoji',
    'text.store': quickstart / 'embeddings',
  }
  weights = []
  for place, (stage, config) in enumerate(STAGES.items()):
    export = folder / 'export' / stage
    fields = fields_of(target, stage)
    if num_steps:
      fields['train.num_steps'] = num_steps[place]
    if not export.is_dir():
      workdir = folder / stage
      flags = ['--config', config, '--workdir', workdir]
      for field, value in {**places, **fields}.items():
        flags += ['--set', f'{field}={value}']
      run('-m', 'imagen_jax', 'train', *flags)
      run('-m', 'imagen_jax', 'export', '--workdir', workdir, '--out', export)
    weights.append(export)
  return weights


def draw(target, samplers, weights, quickstart, folder, num_prompts):
  """Draws and scores with each of `samplers`; returns {sampler: scores}."""
  folder = folder / 'steps'
  flags = ['--weights', *weights, '--out', folder, '--batch-size', '50']
  flags += ['--prompts', quickstart / 'score_prompts.txt']
  flags += ['--num-prompts', num_prompts]
  named = {sampler: rows(target)[sampler] for sampler in samplers}
  run('benchmarks/steps.py', *flags, *named.values())
  found = {}
  for sampler, row in named.items():
    name = row.replace(':', '_').replace(',', '_')
    found[sampler] = json.loads((folder / f'{name}.json').read_text())['scores']
  return found


def share(scores, group, key):
  """A share as text; '-' where nothing was scored."""
  right = scores.get(group, {}).get('right', {})
  return f'{right[key]:.0%}' if key in right else '-'


def table(head, rows):
  """A table in Markdown whose first column is of words."""
  lines = [head, ['---', *['---:'] * (len(head) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def main():
  """Trains, draws, and prints both tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--quickstart', required=True, metavar='DIR')
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--num-prompts', type=int, default=300, metavar='N')
  parser.add_argument(
    '--num-steps',
    type=int,
    nargs=len(STAGES),
    metavar=tuple(stage.upper() for stage in STAGES),
    help="steps that each stage is trained; default: the configs' own",
  )
  parser.add_argument(
    '--samplers', nargs='+', choices=SAMPLERS, default=SAMPLERS, metavar='ROW'
  )
  parser.add_argument('targets', nargs='*', metavar='TARGET')
  args = parser.parse_args()
  for target in args.targets:
    if target not in (*TARGETS, FINE):
      accepted = ', '.join((*TARGETS, FINE))
      parser.error(f'target is {target!r}; accepted: {accepted}')
  quickstart = pathlib.Path(args.quickstart).resolve()
  out = pathlib.Path(args.out).resolve()
  found = {}
  for target in args.targets or (*TARGETS, FINE):
    folder = folder_of(target, out, args.num_steps)
    weights = train(target, quickstart, folder, args.num_steps)
    found[target] = draw(
      target, args.samplers, weights, quickstart, folder, args.num_prompts
    )
  own = [
    [target, *(share(scores[args.samplers[0]], *column) for column in COLUMNS)]
    for target, scores in found.items()
  ]
  steps = args.num_steps or ["the configs' own"]
  print(f'Steps of training: {" + ".join(map(str, steps))}.\n')
  print(table(['target', *(f'{g}: {k}' for g, k in COLUMNS)], own))
  print()
  every = [
    [target, *(share(scores[row], 'shapes', 'all') for row in args.samplers)]
    for target, scores in found.items()
  ]
  print(table(['target', *args.samplers], every))
  if 'edm' in found:
    print("\nOf edm, all but 'own' are by Karras's steps.")


if __name__ == '__main__':
  main()
