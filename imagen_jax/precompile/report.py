"""What `imagen-jax precompile` tells, as a table and as JSON."""

import dataclasses
import importlib.metadata
import math

import jax

from imagen_jax import config as config_lib
from imagen_jax import sharding
from imagen_jax.precompile import compile as compile_lib
from imagen_jax.precompile import hlo
from imagen_jax.precompile import model
from imagen_jax.precompile import topology as topology_lib
from imagen_jax.train import mfu as mfu_lib

# A leaf that every device holds whole is worth a word from here on.
_LARGE = 2**20
# Of buffers, by name.
_MOST_TOLD = 10
_GIB = 2**30
_NOT_MEASURED = (
  'All figures are modelled, by the estimates of the TPU compiler; none was '
  'measured on hardware.'
)


def figures(
  config: config_lib.Config,
  topology: topology_lib.Topology,
  compiled: compile_lib.Compiled,
) -> dict:
  """All that is known of a compiled step, as JSON has it.

  Where the program is not understood, `not_modelled` says why in place of its
  times: to tell its memory took as long to compile.
  """
  memory, devices = compiled.memory, math.prod(compiled.mesh.values())
  found = {
    'modelled': True,
    'stage': config.stage.name,
    'topology': topology.name,
    'slices': topology.slices,
    'devices': devices,
    'mesh': compiled.mesh,
    'batch_size': config.train.batch_size,
    'jax': jax.__version__,
    'libtpu': importlib.metadata.version('libtpu'),
    'compile_wall_seconds': compiled.wall_seconds,
    'compile_cpu_seconds': compiled.cpu_seconds,
    'fits': memory.fits,
    'hbm': dataclasses.asdict(memory)
    | {
      'largest': [
        {'bytes': size, 'source': source, 'shape': shape}
        for size, source, shape in memory.largest
      ]
    },
    'hbm_free_share': 1 - memory.total / memory.capacity,
    'model_flops_per_device': compiled.flops,
    'replicated': [
      {'path': path, 'bytes': size}
      for path, size in compiled.whole
      if size > _LARGE
    ],
  }
  if not memory.fits:
    found['would_fit'] = advice(config, topology, compiled, devices)
  if compiled.hlo is None:
    return found
  try:
    module = hlo.parse(compiled.hlo)
    time = model.step_time(module, topology, devices)
  except ValueError as error:
    return found | {'not_modelled': str(error)}
  chip, size = topology.chip, config.train.batch_size
  opt, mid, pess = time.scheduled
  found['step_seconds'] = {
    'opt': opt,
    'mid': mid,
    'pess': pess,
    'mid_collectives_exposed': time.exposed,
    'mid_collectives_overlapped': time.overlapped,
  }
  of = lambda seconds: mfu_lib.mfu(compiled.flops, seconds, chip)
  found['mfu'] = {'opt': of(opt), 'mid': of(mid), 'pess': of(pess)}
  found['images_per_second_per_device'] = model.images_per_second(
    size, mid, devices
  )
  found['cycles_by_category'] = {
    kind: round(seconds * chip.clock) for kind, seconds in time.pess.items()
  }
  found['seconds_by_category'] = {
    kind: {'pess': time.pess[kind], 'opt': time.opt[kind]} for kind in time.pess
  }
  found['seconds_without_estimate'] = time.unestimated
  found['collective_seconds'] = {
    'all': time.sending,
    'blocking': time.blocking,
  }
  found['collectives'] = {
    kind: dataclasses.asdict(each) for kind, each in time.traffic.items()
  }
  found['dearest'] = [
    {'part': part, 'category': kind, 'seconds': seconds}
    for part, kind, seconds in model.dearest(module, topology, 10)
  ]
  return found


def advice(
  config: config_lib.Config,
  topology: topology_lib.Topology,
  compiled: compile_lib.Compiled,
  devices: int,
) -> list[str]:
  """What would make a step fit that does not: the levers, with sizes.

  The sizes are estimates: what is temporary is taken to grow with the batch.
  """
  memory, unet = compiled.memory, config.stage.unet
  fsdp, size = compiled.mesh['fsdp'], config.train.batch_size
  parts = config.train.microbatches
  room = memory.capacity - memory.arguments - (memory.code or 0)
  levers = []
  if memory.temporaries and room > 0:
    axes = sharding.batch_axes(config.mesh)
    shards = math.prod(compiled.mesh[axis] for axis in axes)
    needed = parts * memory.temporaries / room
    more = [n for n in _divisors(size // shards) if n >= needed]
    if more:
      levers.append(
        f'train.microbatches={more[0]} or so for the same batch, in place of '
        f'{parts}'
      )
    step = shards * parts
    fitting = int(size * room / memory.temporaries) // step * step
    if 0 < fitting < size:
      levers.append(f'train.batch_size={fitting} or so, in place of {size}')
    chips = -(-devices * memory.temporaries // room)
    levers.append(
      f'about {chips} devices for the same batch, in place of {devices}'
    )
  keeps = [policy for policy in unet.remat_policy if policy != 'full']
  if not unet.remat or keeps:
    levers.append(
      'stage.unet.remat=true stage.unet.remat_policy=["full"], which keeps '
      'least of the activations'
    )
  # What is kept in shards shrinks with them.
  if memory.arguments > memory.capacity / 10 and fsdp < devices:
    levers.append(
      f'mesh.fsdp={2 * fsdp} or more, in place of {fsdp}: the state and batch '
      f'take {_gib(memory.arguments)} a device'
    )
  return levers or ['a topology of more or larger devices']


def _divisors(number):
  return [n for n in range(1, number + 1) if number % n == 0]


def _gib(size):
  if size < _GIB:
    return f'{size / 2**20:,.1f} MiB'
  return f'{size / _GIB:,.2f} GiB'


def text(found: dict) -> str:
  """`figures` as a table."""
  mesh = ', '.join(f'{axis} {size}' for axis, size in found['mesh'].items())
  pod = topology_lib.several(found['topology'], found['slices'])
  title = (
    f'{found["stage"]} on {pod}: {found["devices"]} '
    f'devices, mesh ({mesh}), batch {found["batch_size"]:,}'
  )
  parts = [title, _NOT_MEASURED, _lines(_memory(found))]
  if not found['fits']:
    largest = [
      (_gib(each['bytes']), f'{each["source"]}  {each["shape"]}')
      for each in found['hbm']['largest'][:_MOST_TOLD]
    ]
    if largest:
      parts.append(
        'largest that the backward pass is left, before XLA\n' + _lines(largest)
      )
    fits = [('would fit', lever) for lever in found['would_fit']]
    parts.append(_lines(fits))
  if 'step_seconds' in found:
    parts += [_time_table(found), _lines(_speed(found))]
  if found['replicated']:
    parts.append(_whole(found['replicated']))
  parts.append(
    f'compiled in {found["compile_wall_seconds"] / 60:.1f} minutes, '
    f'{found["compile_cpu_seconds"] / 60:.1f} of processor time '
    f'(JAX {found["jax"]}, libtpu {found["libtpu"]})'
  )
  return '\n\n'.join(parts)


def _memory(found):
  hbm = found['hbm']
  said = lambda size: '(not told)' if size is None else _gib(size)
  share = found['hbm_free_share']
  verdict = (
    f'fits, {share:.0%} free'
    if found['fits']
    else f'does not fit, by {_gib(hbm["total"] - hbm["capacity"])}'
  )
  if hbm['temporaries'] is None:
    verdict += ' without the temporaries, which this libtpu does not tell'
  return [
    ('HBM a device', f'{_gib(hbm["total"])} of {_gib(hbm["capacity"])}'),
    ('', verdict),
    ('  arguments', said(hbm['arguments'])),
    ('  temporaries', said(hbm['temporaries'])),
    ('  peak', said(hbm['peak'])),
    ('  program', said(hbm['code'])),
  ]


def _whole(replicated):
  lines = [(_gib(each['bytes']), each['path']) for each in replicated]
  text = 'whole on every device\n' + _lines(lines[:_MOST_TOLD])
  if more := replicated[_MOST_TOLD:]:
    size = _gib(sum(each['bytes'] for each in more))
    text += f'\nand {len(more)} more of {size}'
  return text


def _time_table(found):
  rows = [['category', 'ms, pess', 'ms, opt', 'share of pess']]
  by_kind = dict(found['seconds_by_category'])
  blocking = found['collective_seconds']['blocking']
  by_kind['collectives'] = {'pess': blocking, 'opt': blocking}
  total = found['step_seconds']['pess']
  for kind, seconds in by_kind.items():
    pess, opt = seconds['pess'], seconds['opt']
    rows.append(
      [kind, f'{1e3 * pess:.2f}', f'{1e3 * opt:.2f}', f'{pess / total:.1%}']
    )
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
    '  '.join(
      [row[0].ljust(widths[0])]
      + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
    )
    for row in rows
  )


def _speed(found):
  step, mfu = found['step_seconds'], found['mfu']
  ms = lambda name: f'{1e3 * step[name]:,.2f} ms'
  rate = found['images_per_second_per_device']
  lines = [
    ('modelled step', f'{ms("mid")} ({ms("opt")} to {ms("pess")})'),
    ('  collectives exposed', ms('mid_collectives_exposed')),
    ('  collectives overlapped', ms('mid_collectives_overlapped')),
    ('modelled images/s', f'{rate:,.2f} a device'),
    (
      'modelled MFU',
      f'{mfu["mid"]:.1%} ({mfu["pess"]:.1%} to {mfu["opt"]:.1%})',
    ),
    (
      'model FLOPs',
      f'{found["model_flops_per_device"] / 1e12:,.4g} T a device',
    ),
  ]
  for kind, each in found['collectives'].items():
    beside = each['asynchronous_bytes'] / max(each['wire_bytes'], 1)
    lines.append(
      (
        kind,
        (
          f'{each["wire_bytes"] / 2**20:,.1f} MiB sent in {each["count"]:,}, '
          f'{beside:.0%} of it asynchronous'
        ),
      )
    )
  return lines


def _lines(pairs):
  width = max(len(name) for name, _ in pairs)
  return '\n'.join(f'{name.ljust(width)}  {value}' for name, value in pairs)
