"""`imagen-jax encode`: the captions of a config into a store of embeddings."""

import argparse
import sys

from imagen_jax.cli import devices

HELP = 'encode captions into a store of text embeddings'

_EPILOG = """\
A store that is not finished is gone on with: shards that are whole are kept,
also after a kill -9. On several hosts, start the same command on each, with
the same --out, a folder that all of them see or gs://...; off a TPU pod say who
is who with --coordinator, --num-processes and --process-id.

--verify checks every record of a finished store; its exit status is 1 where
anything is corrupt.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds this command's flags."""
  parser.epilog = _EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    '--config',
    metavar='FILE.py[:ROW]',
    help='config of the run, such as configs/base64.py',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='A.B=VALUE',
    help='override a field of the config; may repeat',
  )
  parser.add_argument(
    '--out',
    metavar='STORE',
    help='folder of the store, or gs://...; captions that it holds are not '
    'encoded again',
  )
  parser.add_argument(
    '--verify',
    metavar='STORE',
    help='check a finished store, in place of encoding',
  )
  parser.add_argument(
    '--shard-bytes',
    type=int,
    default=2**30,
    metavar='N',
    help='about how large a shard is at most (default: %(default)s)',
  )
  devices.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
  """Encodes or verifies, and returns the exit status."""
  if args.verify is not None:
    return _verify(args.verify)
  if args.config is None or args.out is None:
    raise ValueError(
      '--config or --out is missing; accepted: both, or --verify STORE alone'
    )
  from imagen_jax import config as config_lib

  if args.shard_bytes < 1:
    raise ValueError(
      f'--shard-bytes is {args.shard_bytes}; accepted: 1 or more'
    )
  config = config_lib.override(config_lib.load(args.config), args.set)
  devices.start(
    config.mesh.simulated_devices,
    coordinator=args.coordinator,
    num_processes=args.num_processes,
    process_id=args.process_id,
    dead_after=args.dead_after,
  )
  # A wrong checkpoint is told before the captions are read, which takes longer.
  from imagen_jax.text import identity as identity_lib

  identity = identity_lib.of(config.text)
  from imagen_jax.data import tasks

  with devices.together():
    _encode(args, config, tasks.captions(config), identity)
  return 0


def _encode(args, config, sources, identity):
  """Encodes what `sources` have, with a progress bar; says what was done."""
  import jax
  from jax.experimental import multihost_utils

  from imagen_jax import config as config_lib
  from imagen_jax import sharding
  from imagen_jax.text import encoder as encoder_lib
  from imagen_jax.text import write_store

  # Hosts encode shards of their own, so each has a mesh of its own. It shards
  # the weights, as the largest encoders do not fit one chip.
  mesh, local = None, jax.local_devices()
  if len(local) > 1:
    own = config_lib.MeshConfig(data=1, fsdp=-1, model=1)
    mesh = sharding.make_mesh(own, local)
  host = jax.process_index(), jax.process_count()

  def barrier():
    if host[1] > 1:
      multihost_utils.sync_global_devices('imagen_jax encode')

  bar = _Bar(len(local), disable=host[0] > 0)
  manifest = write_store.write(
    args.out,
    sources,
    lambda: encoder_lib.TextEncoder(config.text, mesh),
    identity,
    rows=config.text.rows,
    shard_bytes=args.shard_bytes,
    host=host,
    barrier=barrier,
    report=bar.report,
  )
  bar.close()
  if host[0] > 0:
    return
  print(bar.summary(manifest, args.out))
  # Of a store that was added to, what earlier runs told is told again.
  parts = manifest['parts']
  where = f', in all {len(parts)} parts' if len(parts) > 1 else ''
  empty = sum(part['empty'] for part in parts)
  if empty:
    print(f'left out {empty} empty captions{where}')
  if manifest['num_cut']:
    print(
      f'cut {manifest["num_cut"]} captions that are longer than '
      f'text.max_length ({config.text.max_length} tokens){where}'
    )


# Without the bar's own rate, which in a run that goes on would count what was
# found finished; `_speed` tells the rate.
_ENCODE_BAR = (
  '{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]'
)


class _Bar:
  """A progress bar for each stage of writing a store."""

  def __init__(self, chips, disable):
    self._chips = chips
    self._disable = disable
    self._bar = None
    self._last = None

  def report(self, progress):
    import tqdm

    if self._last is None or self._last.stage != progress.stage:
      self.close()
      scan = progress.stage == 'scan'
      self._bar = tqdm.tqdm(
        total=progress.total,
        desc=progress.stage,
        unit=' records' if scan else ' captions',
        bar_format=None if scan else _ENCODE_BAR,
        disable=self._disable,
      )
    self._last = progress
    # The total is a guess where several runs of the scan had the same caption.
    self._bar.update(progress.done - self._bar.n)
    if progress.computed:
      self._bar.set_postfix_str(self._speed(), refresh=False)

  def close(self):
    if self._bar is not None:
      self._bar.close()

  def _speed(self):
    last = self._last
    seconds = max(last.seconds, 1e-9)
    return (
      f'{last.encoded / seconds:.0f} captions/s, '
      f'{last.tokens / seconds / self._chips:.0f} tokens/s a chip, '
      f'{last.tokens / last.computed:.0%} real tokens'
    )

  def summary(self, manifest, out):
    holds = f'{out} holds {manifest["num_captions"]} captions'
    last = self._last
    if last is None or last.stage == 'scan':
      return f'nothing to encode: {holds}, all that the config has'
    if not last.computed:
      return f'found all shards finished: {holds}'
    return (
      f'encoded {last.encoded} captions on this host in {last.seconds:.1f} s '
      f'({self._speed()}); {holds}'
    )


def _verify(path):
  """Checks a store; returns 1 where something is corrupt."""
  import tqdm

  from imagen_jax.text import verify

  # A folder that is no store is told before there is a bar.
  with tqdm.tqdm(desc='verify', unit=' shards', delay=0.5) as bar:

    def report(done, total):
      bar.total = total
      bar.update(done - bar.n)

    manifest, wrong = verify.verify(path, report)
  shards = sum(len(part['shards']) for part in manifest['parts'])
  for shard, reasons in wrong.items():
    for reason in reasons:
      print(f'{shard}: {reason}', file=sys.stderr)
  print(
    f'{path}: {manifest["num_captions"]} captions, '
    f'{manifest["num_tokens"]} tokens in {shards} shards; '
    f'{len(wrong)} of the shards are corrupt'
  )
  return 1 if wrong else 0
