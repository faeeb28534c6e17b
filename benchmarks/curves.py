r"""Keeps the quickstart's loss and score curves, as data and as a picture.

    pip install matplotlib  # It is in the extra `bench`.
    python benchmarks/curves.py --quickstart quickstart --out docs \
        --workdir quickstart-curves

takes what `bash launch/quickstart.sh` left, and writes
`OUT/quickstart-curves.jsonl`, as `imagen_jax/curves.py` describes it, and
`OUT/quickstart-curves.png`. For the scores the base is trained once more in
`--workdir`, with the same config, and a checkpoint kept every `--score-every`
steps (a tenth of the run). Each is exported, draws `--num-prompts` (100) of the
captions that the quickstart scored, with the quickstart's super-resolution
stages behind it, and is scored as `imagen-jax score` does. What `--workdir` has
already is not done again: take another one for another quickstart.

Training the base takes minutes on two cores, a checkpoint half a minute.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from imagen_jax import config as config_lib
from imagen_jax import curves as curves_lib

REPO = pathlib.Path(__file__).resolve().parent.parent
NAME = 'quickstart-curves'
# A config file that is the config of a run.
CONFIG = """\
import pathlib

from imagen_jax import config


def get_config():
  return config.from_json(pathlib.Path({path!r}).read_text())
"""
# Of the scores, what the picture shows.
SHOWN = (
  ('shapes', 'position'),
  ('shapes', 'all'),
  ('openmoji', 'background'),
  ('openmoji', 'top1'),
  ('openmoji', 'all'),
)


def find_stages(quickstart):
  """The folders of a quickstart's stages, the base first.

  Raises:
    ValueError: where there are none that were trained and exported.
  """
  sizes = {}
  for metrics in quickstart.glob('*/metrics.jsonl'):
    folder = metrics.parent
    if not (quickstart / 'export' / folder.name / 'manifest.json').is_file():
      continue
    sizes[folder] = config_of(folder).stage.image_size
  if not sizes:
    raise ValueError(
      f'--quickstart is {str(quickstart)!r}, which has no stages; accepted: '
      'the --out of a launch/quickstart.sh that has ended'
    )
  return sorted(sizes, key=sizes.get)


def config_of(workdir):
  """The config of a run."""
  return config_lib.from_json((workdir / 'config.json').read_text())


def run(*command):
  """Runs a command of imagen-jax, or stops."""
  command = [sys.executable, '-m', 'imagen_jax', *map(str, command)]
  print('+', *command[2:], flush=True)
  subprocess.run(command, cwd=REPO, check=True)


def train(base, quickstart, workdir, every):
  """Trains the base once more, and keeps what is to be scored.

  Args:
    base: the folder of its run.
    quickstart: the folder that it is in, which may have been moved since.
    workdir: gets the run, in base/.
    every: steps between checkpoints.

  Returns:
    The steps of the checkpoints.
  """
  path = workdir / 'config.py'
  path.write_text(CONFIG.format(path=str(base / 'config.json')))
  cfg = config_of(base)
  fields = {
    f'data.tasks.{task.name}.path': quickstart / 'data' / task.name
    for task in cfg.data.tasks
  }
  fields |= {
    'text.store': quickstart / 'embeddings',
    'train.checkpoint_every': every,
    'keep.every_steps': every,
    'train.sample_every': 0,
    'train.eval_every': 0,
  }
  flags = ['--config', path, '--workdir', workdir / 'base']
  for field, value in fields.items():
    flags += ['--set', f'{field}={value}']
  run('train', *flags)
  last = cfg.train.num_steps
  return sorted({*range(every, last, every), last})


def farthest(one, other):
  """The largest ratio of two curves' losses at a step, less 1."""
  losses = {line['step']: line['loss'] for line in other.losses}
  ratios = [
    line['loss'] / losses[line['step']]
    for line in one.losses
    if line['step'] in losses
  ]
  return max(max(ratio, 1 / ratio) for ratio in ratios) - 1


def score(step, workdir, behind, prompts):
  """Scores of a checkpoint of the base, by dataset.

  Args:
    step: of the checkpoint.
    workdir: as of `train`.
    behind: exports of the super-resolution stages.
    prompts: a file of captions.
  """
  done = workdir / 'scores' / f'{step}.json'
  if not done.is_file():
    weights, samples = (workdir / n / str(step) for n in ('export', 'samples'))
    run(
      *('export', '--workdir', workdir / 'base', '--step', step),
      *('--out', weights),
    )
    run(
      *('sample', '--weights', weights, *behind, '--prompts', prompts),
      *('--batch-size', 50, '--simulated-devices', 2, '--out', samples),
    )
    done.parent.mkdir(exist_ok=True)
    run('score', '--samples', samples, '--out', done)
  return json.loads(done.read_text())


def score_line(step, images, captions, scores):
  """A checkpoint's line in the file of curves: the share right, by key."""
  shares = {
    name: {key: round(share, 4) for key, share in found['right'].items()}
    for name, found in scores.items()
    if name != 'unscored'
  }
  about = {'step': step, 'images': images, 'captions': captions}
  return {**about, 'scores': shares}


def collect(quickstart, workdir, every, num_prompts):
  """Trains and scores; returns the curves of all stages, with the scores.

  Args:
    quickstart: the folder.
    workdir: as of `train`.
    every: steps between checkpoints; None for a tenth of the run.
    num_prompts: captions that each is scored by.
  """
  stages = find_stages(quickstart)
  curves = [curves_lib.of_run(str(s), '--quickstart') for s in stages]
  base = curves[0]
  workdir.mkdir(parents=True, exist_ok=True)
  every = every or max(1, config_of(stages[0]).train.num_steps // 10)
  steps = train(stages[0], quickstart, workdir, every)
  again = curves_lib.of_run(str(workdir / 'base'), '--workdir')
  print(
    "losses of the second training differ from the quickstart's by up to "
    f'{farthest(again, base):.2%}'
  )
  captions = (quickstart / 'score_prompts.txt').read_text().splitlines()
  count = min(num_prompts, len(captions))
  # Spread over the file, which has one dataset's after the other's.
  chosen = [captions[i * len(captions) // count] for i in range(count)]
  prompts = workdir / 'prompts.txt'
  prompts.write_text(''.join(line + '\n' for line in chosen))
  behind = [quickstart / 'export' / stage.name for stage in stages[1:]]
  batch_size = config_of(stages[0]).train.batch_size
  for step in steps:
    scores = score(step, workdir, behind, prompts)
    base.scores.append(score_line(step, batch_size * step, count, scores))
  return curves


def draw(curves, path):
  """Draws losses of all stages, and scores of the first, as a PNG."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, (left, right) = pyplot.subplots(
    1, 2, figsize=(10, 4), layout='constrained'
  )
  for curve in curves:
    steps = [line['step'] for line in curve.losses]
    left.loglog(
      steps, [line['loss'] for line in curve.losses], label=curve.stage
    )
  left.set(xlabel='step', ylabel='loss', title='Loss while training')
  base = curves[0]
  for group, key in SHOWN:
    found = [
      (line['step'], 100 * line['scores'][group][key])
      for line in base.scores
      if key in line['scores'].get(group, {})
    ]
    if found:
      right.plot(*zip(*found), marker='.', label=f'{group}: {key}')
  captions = base.scores[0]['captions']
  right.set(
    xlabel=f'step of {base.stage}',
    ylabel='right, %',
    ylim=(-3, 103),
    title=f'Score of {captions} held-out captions',
  )
  for axes in (left, right):
    axes.grid(alpha=0.3, which='major')
    axes.legend(frameon=False, fontsize='small')
  figure.savefig(path, dpi=100, metadata={'Software': None})
  pyplot.close(figure)


def main():
  """Trains, scores, and writes both files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--quickstart', required=True, metavar='DIR')
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--workdir', required=True, metavar='DIR')
  parser.add_argument('--score-every', type=int, metavar='STEPS')
  parser.add_argument('--num-prompts', type=int, default=100, metavar='N')
  args = parser.parse_args()
  for name in ('score_every', 'num_prompts'):
    value = getattr(args, name)
    if value is not None and value < 1:
      flag = '--' + name.replace('_', '-')
      parser.error(f'{flag} is {value}; accepted: 1 or more')
  import matplotlib  # noqa: F401  Missed before the minutes, not after them.

  quickstart, out, workdir = (
    pathlib.Path(folder).resolve()
    for folder in (args.quickstart, args.out, args.workdir)
  )
  curves = collect(quickstart, workdir, args.score_every, args.num_prompts)
  out.mkdir(parents=True, exist_ok=True)
  (out / f'{NAME}.jsonl').write_text(curves_lib.to_text(curves))
  draw(curves, out / f'{NAME}.png')
  print(f'wrote {NAME}.jsonl and {NAME}.png to {out}')


if __name__ == '__main__':
  main()
