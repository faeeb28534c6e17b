r"""Measures samplers and numbers of steps against the score, on a cascade.

    python benchmarks/steps.py \
        --weights quickstart/export/base quickstart/export/sr \
        --prompts quickstart/score_prompts.txt --num-prompts 100 \
        --out quickstart/steps ddim:24,12 dpmpp:12,6 heun+karras:6,3

Each row is SAMPLER[+SPACING]:STEPS[,STEPS...], a number of steps a stage, by
time where no spacing is named (heun: Karras's); or `own`, which sets nothing
and so is what the stages were exported with. The
pictures are drawn with the same noise, and scored as `imagen-jax score` does.
Prints a table in Markdown, whose `calls` are those of the network, of all
stages, for a picture (each is of two, with and without text). `--against ROW`
adds how far the pictures are from those of ROW, the root of the mean square in
levels of 255: solvers of one equation, such as ddim and dpmpp, come nearer the
more steps they take, while the scores see no difference any more. Rows that OUT
has already are not measured again.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from PIL import Image

from imagen_jax import export
from imagen_jax import generate
from imagen_jax.synthetic import openmoji
from imagen_jax.synthetic import scores as scores_lib

# What the table shows of the scores, by set.
COLUMNS = (
  ('shapes', 'colour'),
  ('shapes', 'shape'),
  ('shapes', 'position'),
  ('openmoji', 'background'),
  ('openmoji', 'top1'),
  ('openmoji', 'top5'),
)


def parse(row: str, num_stages: int):
  """A row as (sampler, spacing, steps a stage); each None for 'own'.

  Raises:
    ValueError: where it is no row.
  """
  if row == 'own':
    return None, None, None
  method, _, steps = row.partition(':')
  sampler, _, spacing = method.partition('+')
  try:
    steps = [int(number) for number in steps.split(',')]
  except ValueError:
    steps = []
  if len(steps) != num_stages:
    raise ValueError(
      f'row {row!r}; accepted: own, or SAMPLER[+SPACING]:STEPS, with '
      f'{num_stages} numbers of steps joined by commas'
    )
  default = 'karras' if sampler == 'heun' else 'time'
  return sampler, spacing or default, steps


def calls(settings):
  """Calls of the network for a picture, of all stages.

  Args:
    settings: a (sampler, steps) a stage.
  """
  return sum(2 * n - 1 if sampler == 'heun' else n for sampler, n in settings)


def own_settings(weights):
  """The (sampler, steps) that each exported stage has."""
  stages = [export.load_weights(folder).stage for folder in weights]
  return [(stage.sample.sampler, stage.sample.num_steps) for stage in stages]


def measure(row, args, prompts, folder):
  """Draws and scores the pictures of `row`; returns a line of results."""
  sampler, spacing, steps = parse(row, len(args.weights))
  begin = time.perf_counter()
  generate.generate(
    args.weights,
    prompts,
    str(folder),
    num=1,
    guidance_weights=[None],
    steps=steps,
    sampler=sampler,
    seed=0,
    batch_size=args.batch_size,
    text_checkpoint=None,
    settings=[f'spacing={spacing}'] if spacing else [],
  )
  seconds = time.perf_counter() - begin
  scores = scores_lib.score_folders([folder], openmoji.choose_objects(64))
  settings = own_settings(args.weights)
  if steps:
    settings = [(sampler, n) for n in steps]
  return {
    'row': row,
    'settings': settings,
    'calls': calls(settings),
    'seconds': seconds,
    'prompts': len(prompts),
    'scores': scores,
  }


def distance(folder, other):
  """Root of the mean square between the pictures of two rows, in levels."""
  squares = []
  for path in sorted(folder.glob('0*.png')):
    one, two = (
      np.asarray(Image.open(f / path.name), np.float64) for f in (folder, other)
    )
    squares.append(np.mean((one - two) ** 2))
  return float(np.sqrt(np.mean(squares)))


def table(lines):
  """The results as a table in Markdown."""
  names = [name if name != 'top1' else 'object' for _, name in COLUMNS]
  far = any('distance' in line for line in lines)
  names += ['distance'] * far
  rows = [['sampler', 'steps', 'calls', *names]]
  rows.append(['---', '---', *['---:'] * (1 + len(names))])
  for line in lines:
    method, _, steps = line['row'].partition(':')
    if method == 'own':
      steps = ','.join(f'{sampler} {n}' for sampler, n in line['settings'])
    shares = [
      f'{line["scores"][group]["right"][name]:.0%}'
      if name in line['scores'].get(group, {}).get('right', {})
      else '-'
      for group, name in COLUMNS
    ]
    shares += [f'{line["distance"]:.1f}'] if far else []
    steps = steps.replace(',', ' + ')
    rows.append([method, steps, str(line['calls']), *shares])
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def main():
  """Measures the rows of the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--weights', required=True, nargs='+', metavar='DIR')
  parser.add_argument('--prompts', required=True, metavar='FILE')
  parser.add_argument('--num-prompts', type=int, default=100, metavar='N')
  parser.add_argument('--batch-size', type=int, default=50, metavar='N')
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--against', metavar='ROW')
  parser.add_argument('rows', nargs='+', metavar='ROW')
  args = parser.parse_args()
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  every = pathlib.Path(args.prompts).read_text().splitlines()
  # Spread over the file, which has one set of captions after the other.
  count = min(args.num_prompts, len(every))
  prompts = [every[i * len(every) // count] for i in range(count)]
  rows = list(dict.fromkeys([args.against or args.rows[0], *args.rows]))
  for row in rows:
    parse(row, len(args.weights))
  lines, place = [], lambda row: out / row.replace(':', '_').replace(',', '_')
  for row in rows:
    done = place(row).with_name(place(row).name + '.json')
    if not done.is_file():
      line = measure(row, args, prompts, place(row))
      done.write_text(json.dumps(line) + '\n')
    lines.append(json.loads(done.read_text()))
    if args.against:
      lines[-1]['distance'] = distance(place(row), place(args.against))
  print(table(lines))


if __name__ == '__main__':
  main()
