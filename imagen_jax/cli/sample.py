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

A preset sets sampler and steps of each stage; --set sets any field of
`config.SampleConfig`, of all stages or of one: `--set spacing=karras --set
sr64.aug_level=0.2`. What is asked for by a flag of its own goes before both.

--init-image starts from a picture: with --strength 0.6, six tenths of the
steps are taken from it (a number a stage: `--strength 0.6,1`). With --mask,
only what is white there is painted anew, and --resample takes each step so
many times, which fits the new to the old. docs/diffusion.md tells more.
"""

_SAMPLERS = ('ancestral', 'ddim', 'dpmpp', 'dpmpp_sde', 'heun')
_PRESETS = ('reference', 'balanced', 'fast')


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
    choices=_SAMPLERS,
    help="default: the stages' own; heun takes Karras's steps in the place of "
    'steps by time, where --set has no spacing',
  )
  parser.add_argument(
    '--preset',
    choices=_PRESETS,
    help="sampler and steps, by the successors' advice; default: the stages' "
    'own',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='[STAGE.]FIELD=VALUE',
    help='a setting of sampling; may be given several times',
  )
  parser.add_argument(
    '--init-image', metavar='FILE', help='a picture to start from'
  )
  parser.add_argument(
    '--strength',
    metavar='S',
    help='share of the steps that is taken from it, above 0 and up to 1; '
    'default: 0.6, or 1 with --mask',
  )
  parser.add_argument(
    '--mask',
    metavar='FILE',
    help='white where the picture is painted anew; of its size',
  )
  parser.add_argument(
    '--resample',
    type=int,
    metavar='N',
    help='times that each step is taken under a mask; default: 1',
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
    help='of the text encoder, where it lies elsewhere than in training; '
    'other weights are refused',
  )
  parser.add_argument(
    '--text-vocabulary',
    metavar='PATH',
    help='the same of its vocabulary',
  )
  parser.add_argument(
    '--simulated-devices', type=int, default=0, metavar='N', help='CPU only'
  )


def main(args: argparse.Namespace) -> int:
  """Runs the command; returns its exit status."""
  prompts = _prompts(args)
  for name in ('num', 'batch_size', 'devices_per_image', 'resample'):
    value = getattr(args, name)
    if value is not None and value < 1:
      flag = '--' + name.replace('_', '-')
      raise ValueError(f'{flag} is {value}; accepted: 1 or more')
  stages_count = len(args.weights)
  weights = [
    _per_stage('--guidance-weight', text, float, stages_count)
    for text in args.guidance_weight
  ]
  steps = _per_stage('--steps', args.steps, int, stages_count)
  strength = _strength(args, stages_count)

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
    text_vocabulary=args.text_vocabulary,
    devices_per_image=args.devices_per_image,
    preset=args.preset,
    settings=args.set,
    image=args.init_image,
    mask=args.mask,
    strength=strength,
    resample=args.resample,
  )
  return 0


def _strength(args, count):
  """A strength a stage; None where none is asked for."""
  if args.init_image is None:
    for flag in ('mask', 'strength'):
      if getattr(args, flag) is not None:
        raise ValueError(
          f'--{flag} without --init-image; accepted: with a picture to start '
          'from'
        )
  if args.resample is not None and args.mask is None:
    raise ValueError(
      f'--resample is {args.resample} without --mask; accepted: with a mask '
      'of what to paint anew'
    )
  if args.strength is None:
    return None
  values = _per_stage('--strength', args.strength, float, count)
  if not all(0 < value <= 1 for value in values):
    raise ValueError(
      f'--strength is {args.strength!r}; accepted: above 0 and up to 1, for '
      'all stages or one a stage'
    )
  return values


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
