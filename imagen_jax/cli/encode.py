"""`imagen-jax encode`: the captions of a config into a store of embeddings."""

import argparse

HELP = 'encode captions into a store of text embeddings'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds this command's flags."""
  parser.add_argument(
    '--config',
    required=True,
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
    required=True,
    metavar='STORE',
    help='folder of the store; captions that it holds are not encoded again',
  )
  parser.add_argument(
    '--batch-size',
    type=int,
    default=64,
    metavar='N',
    help='captions computed at once (default: %(default)s)',
  )


def main(args: argparse.Namespace) -> int:
  """Encodes, and returns the exit status."""
  from imagen_jax import config as config_lib

  config = config_lib.override(config_lib.load(args.config), args.set)
  # A wrong checkpoint is told before the captions are read, which takes longer.
  from imagen_jax.text import identity as identity_lib

  identity = identity_lib.of(config.text)
  from imagen_jax.data import tasks
  from imagen_jax.text import write_store

  captions, num_empty = write_store.distinct(tasks.captions(config))
  if not captions:
    raise ValueError(
      'the tasks of data.tasks have no captions; accepted: at least one'
    )
  pending = write_store.pending(args.out, captions, identity)
  if num_empty:
    print(f'left out {num_empty} empty captions')
  if not pending:
    print(f'{args.out} is complete: it holds all {len(captions)} captions')
    return 0
  _encode(args, config, pending, identity)
  return 0


def _encode(args, config, captions, identity):
  """Encodes `captions` with a progress bar, and says what was done."""
  import time

  import jax
  from jax.experimental import multihost_utils
  import tqdm

  from imagen_jax import config as config_lib
  from imagen_jax import sharding
  from imagen_jax.text import encoder as encoder_lib
  from imagen_jax.text import write_store

  # Hosts encode shards of their own, so each has a mesh of its own. It shards
  # the weights, as the largest encoders do not fit one chip.
  mesh, devices = None, jax.local_devices()
  if len(devices) > 1:
    own = config_lib.MeshConfig(data=1, fsdp=-1, model=1)
    mesh = sharding.make_mesh(own, devices)
  encoder = encoder_lib.TextEncoder(config.text, mesh)
  host = jax.process_index(), jax.process_count()

  def barrier():
    if host[1] > 1:
      multihost_utils.sync_global_devices('imagen_jax encode')

  start = time.monotonic()
  share = 1.0
  with tqdm.tqdm(
    total=-(-len(captions) // host[1]),  # About this host's share.
    desc='encode',
    unit=' captions',
    disable=host[0] > 0,
  ) as bar:

    def report(progress):
      nonlocal share
      bar.update(progress.captions - bar.n)
      if progress.computed:
        share = progress.tokens / progress.computed
        bar.set_postfix_str(f'{share:.0%} real tokens', refresh=False)

    manifest = write_store.write(
      args.out,
      captions,
      encoder,
      identity,
      batch_size=args.batch_size,
      host=host,
      barrier=barrier,
      report=report,
    )
  seconds = time.monotonic() - start
  if host[0] > 0:
    return
  part = manifest['parts'][-1]
  print(
    f'encoded {len(captions)} captions in {seconds:.1f} s '
    f'({len(captions) / seconds:.0f} a second, {share:.0%} real tokens); '
    f'{args.out} holds {manifest["num_captions"]}'
  )
  if part['num_cut']:
    print(
      f'cut {part["num_cut"]} captions that are longer than text.max_length '
      f'({config.text.max_length} tokens)'
    )
