"""The table of the paper's three stages on the kinds of TPU, all modelled.

    python benchmarks/stages.py --out figures
    python benchmarks/stages.py --out figures --only v5p

Compiles the training step of each shipped config, at its batch of 2,048, for a
pod of each kind (`imagen-jax precompile`, so libtpu and no TPU), one after the
other: 7 to 20 minutes of processor time each, more for the base on v6e, and up
to 22 GiB of memory, for the base on v4. What `--out` holds already is not
compiled again: take another folder for another version of libtpu. Prints a
table in Markdown.
"""

import argparse
import json
import pathlib
import subprocess
import sys

# Of the base and of the others. The paper's are 256 and 128 chips of v4.
PODS = {
  'v4': ('v4:4x8x8', 'v4:4x4x8'),
  'v5e': ('v5e:16x16', 'v5e:8x16'),
  'v5p': ('v5p:4x4x8', 'v5p:4x4x4'),
  'v6e': ('v6e:16x16', 'v6e:8x16'),
}
STAGES = ('base64', 'sr256', 'sr1024')
CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
HEAD = (
  'stage | topology | fits, free | HBM, GiB | step, ms: `mid` (range) | '
  'collectives hidden to exposed | images/s a chip | MFU: `mid` (range) | '
  'over 1 MiB whole | compiled in, minutes (processor)'
)


def row(found: dict) -> str:
  """A line of the table.

  Args:
    found: what `imagen-jax precompile --json` wrote.
  """
  memory = found['hbm']
  fits = 'yes' if found['fits'] else 'no'
  cells = [
    found['stage'],
    f'`{found["topology"]}`',
    f'{fits}, {found["hbm_free_share"]:.0%}',
    f'{memory["total"] / 2**30:.1f}',
  ]
  if 'step_seconds' in found:
    step = {name: 1e3 * value for name, value in found['step_seconds'].items()}
    mfu = {name: 100 * value for name, value in found['mfu'].items()}
    hidden = step['mid_collectives_overlapped']
    cells += [
      f'{step["mid"]:.1f} ({step["opt"]:.1f} to {step["pess"]:.1f})',
      f'{hidden:.1f} to {step["mid_collectives_exposed"]:.1f}',
      f'{found["images_per_second_per_device"]:.1f}',
      f'{mfu["mid"]:.1f}% ({mfu["pess"]:.1f} to {mfu["opt"]:.1f})',
    ]
  else:
    cells += ['not understood' if 'not_modelled' in found else '', '', '', '']
  cells.append(f'{len(found["replicated"])}' if found['replicated'] else 'none')
  wall, processor = (
    found[f'compile_{name}_seconds'] / 60 for name in ('wall', 'cpu')
  )
  cells.append(f'{wall:.1f} ({processor:.1f})')
  return f'| {" | ".join(cells)} |'


def main():
  """Compiles what is missing, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='DIR')
  parser.add_argument(
    '--only',
    choices=PODS,
    action='append',
    help='a kind of TPU; may be given several times',
  )
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  rows = []
  for kind in args.only or PODS:
    base, others = PODS[kind]
    for stage in STAGES:
      file = args.out / f'{stage}-{kind}.json'
      if not file.exists():
        config = CONFIGS / f'{stage}.py'
        topology = base if stage == 'base64' else others
        print(f'{stage} for {topology}', file=sys.stderr, flush=True)
        command = [sys.executable, '-m', 'imagen_jax', 'precompile']
        command += ['--config', str(config), '--topology', topology]
        done = subprocess.run(
          [*command, '--json', str(file)], stdout=subprocess.DEVNULL
        )
        if not file.exists():
          raise SystemExit(f'failed with status {done.returncode}')
      rows.append(row(json.loads(file.read_text())))
  columns = HEAD.count('|') + 1
  print(f'| {HEAD} |', f'|{" --- |" * columns}', *rows, sep='\n')


if __name__ == '__main__':
  main()
