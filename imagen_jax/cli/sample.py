"""The command `imagen-jax sample`."""

import argparse
import math
import pathlib

HELP = 'make pictures from captions with exported stages'

_EPILOG = """\
OUT gets one PNG a picture, samples.jsonl (file, prompt, guidance_weight, seed,
number) and grid.png: a row a prompt, a column a guidance weight. A picture
depends on the seed, its prompt's words and its number among the pictures of
that prompt, not on the other prompts or the batch size.

--guidance-weight and --steps take one number for all stages, or one a stage
joined by commas: `--guidance-weight 7.5,4 --steps 256,128`. Several weights
give several columns: `--guidance-weight 1 3 7.5`.
"""


def add_arguments(parser: argparse.ArgumentParser):
  """Declares the command's arguments."""
  parser.epilog = _EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    '--weights',
    required=True,
    nargs='+',
    metavar='DIR',
    help='exported stages, the base first',
  )
  parser.add_argument(
    '--prompt', action='append', default=[], help='may be given several times'
  )
  parser.add_argument(
    '--prompts', metavar='FILE', help='a text file with a prompt a line'
  )
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument(
    '--num', type=int, default=1, metavar='N', help='pictures a prompt'
  )
  parser.add_argument(
    '--guidance-weight',
    nargs='+',
    default=[None],
    metavar='W',
    help="default: the stages' own",
  )
  parser.add_argument(
    '--steps', metavar='N', help="sampling steps; default: the stages' own"
  )
  parser.add_argument(
    '--sampler',
    choices=('ancestral', 'ddim'),
    help="default: the stages' own",
  )
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--batch-size', type=int, default=64, metavar='N')
  parser.add_argument(
    '--devices-per-image',
    type=int,
    default=1,
    metavar='N',
    help='devices that share a picture, for large ones; default 1',
  )
  parser.add_argument(
    '--text-checkpoint',
    metavar='PATH',
    help='of the text encoder, where it lies elsewhere than in training',
  )
  parser.add_argument(
    '--simulated-devices', type=int, default=0, metavar='N', help='CPU only'
  )


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  prompts = _prompts(args)
  for name in ('num', 'batch_size', 'devices_per_image'):
    if getattr(args, name) < 1:
      flag = '--' + name.replace('_', '-')
      raise ValueError(f'{flag} is {getattr(args, name)}; accepted: 1 or more')
  stages_count = len(args.weights)
  weights = [
    _per_stage('--guidance-weight', text, float, stages_count)
    for text in args.guidance_weight
  ]
  steps = _per_stage('--steps', args.steps, int, stages_count)

  from imagen_jax.cli import devices

  devices.start(args.simulated_devices, alone=True)
  from imagen_jax import generate

  generate.generate(
    args.weights,
    prompts,
    args.out,
    num=args.num,
    guidance_weights=weights,
    steps=steps,
    sampler=args.sampler,
    seed=args.seed,
    batch_size=args.batch_size,
    text_checkpoint=args.text_checkpoint,
    devices_per_image=args.devices_per_image,
  )
  return 0


def _prompts(args):
  prompts = list(args.prompt)
  if args.prompts:
    path = pathlib.Path(args.prompts)
    if not path.is_file():
      raise ValueError(f'--prompts is {args.prompts!r}; accepted: a text file')
    lines = path.read_text(encoding='utf-8').splitlines()
    prompts += [line.strip() for line in lines if line.strip()]
  if not prompts or not all(prompt.strip() for prompt in prompts):
    raise ValueError(
      'no prompt, or an empty one; accepted: --prompt "..." or --prompts FILE'
    )
  return prompts


def _per_stage(flag, text, kind, count):
  """'4' or '4,2' as one number a stage; None stays None."""
  if text is None:
    return None
  try:
    values = [kind(part) for part in text.split(',')]
  except ValueError:
    values = []
  if len(values) == 1:
    values *= count
  least = 1 if kind is int else 0
  if len(values) != count or not all(least <= v < math.inf for v in values):
    raise ValueError(
      f'{flag} is {text!r}; accepted: one number, {least} or more, for all of '
      f'the {count} stages, or one a stage joined by commas'
    )
  return values
