"""Bytes on the wire, and which of them block."""

import pytest

from imagen_jax.precompile import collectives
from imagen_jax.precompile import hlo
from imagen_jax.precompile import schedule
from imagen_jax.precompile import work

P = '%p = f32[8,128]{1,0} parameter(0)'
SIZE = 8 * 128 * 4
GROUPS = 'channel_id=1, replica_groups=[2,4]<=[8]'


def found(text, num_devices=8):
  module = hlo.parse(text)
  return collectives.transfers(module, schedule.executed(module), num_devices)


@pytest.mark.parametrize(
  'opcode, shape, wire',
  [
    ('all-gather', 'f32[32,128]', 3 * SIZE),
    ('all-reduce', 'f32[8,128]', 2 * SIZE * 3 / 4),
    ('reduce-scatter', 'f32[2,128]', SIZE * 3 / 4),
    ('all-to-all', 'f32[8,128]', SIZE * 3 / 4),
    ('collective-permute', 'f32[8,128]', SIZE),
  ],
)
def test_bytes_of_each_kind(write, opcode, shape, wire):
  entry = [
    P,
    (
      f'%c = {shape}{{1,0}} {opcode}(%p), {GROUPS}, '
      'metadata={op_name="jit(f)/a/gather"}'
    ),
    'ROOT %r = f32[8,128] copy(%p)',
  ]
  (transfer,) = found(write.program(entry))
  assert transfer.kind == opcode
  assert transfer.wire_bytes == wire
  assert not transfer.asynchronous
  assert transfer.source == 'jit(f)/a/gather'


@pytest.mark.parametrize(
  'opcode, shape, wire',
  [
    ('all-gather', '(f32[8,128]{1,0}, f32[32,128]{1,0:T(8,128)})', 3 * SIZE),
    ('all-reduce', '(f32[8,128]{1,0}, f32[8,128]{1,0})', 4 * SIZE * 3 / 4),
    ('collective-permute', '(f32[8,128], f32[8,128], u32[], u32[])', SIZE),
  ],
)
def test_what_is_started_and_done_is_one_transfer(write, opcode, shape, wire):
  entry = [
    P,
    f'%c = {shape} {opcode}-start(%p), {GROUPS}',
    f'%d = f32[8,128] {opcode}-done(%c)',
    'ROOT %r = f32[8,128] copy(%p)',
  ]
  (transfer,) = found(write.program(entry))
  assert (transfer.kind, transfer.wire_bytes) == (opcode, wire)
  assert transfer.asynchronous


def part(name, target):
  """A computation that starts, ends or goes on with the gather of channel 1."""
  call = (
    f'  ROOT %k = f32[32,128] custom-call(%g), custom_call_target="{target}"'
    if target
    else '  ROOT %k = f32[32,128] negate(%g)'
  )
  return (
    f'%{name} (x: f32[8,128]) -> f32[32,128] {{\n'
    '  %x = f32[8,128]{1,0} parameter(0)\n'
    f'  %g = f32[32,128]{{1,0}} all-gather(%x), {GROUPS}\n{call}\n}}\n'
  )


def test_what_goes_on_in_a_loop_is_one_transfer(write):
  """Started before a loop, carried on in its body, ended behind it."""
  inner = (
    f'  %f = f32[32,128] fusion(%x), kind=kOutput, calls=%on, '
    f'{write.estimate(9)}'
  )
  entry = [
    *write.loop_entry[:1],
    '%begin = f32[32,128] fusion(%p), kind=kCustom, calls=%started',
    *write.loop_entry[1:-1],
    '%end = f32[32,128] fusion(%p), kind=kCustom, calls=%ended',
    write.loop_entry[-1],
  ]
  text = write.program(
    entry,
    part('started', 'AsyncCollectiveStart'),
    part('on', None),
    part('ended', 'AsyncCollectiveDone'),
    write.loop(5, inner=inner),
  )
  (transfer,) = found(text)
  assert (transfer.times, transfer.asynchronous) == (1, True)
  assert transfer.wire_bytes == 3 * SIZE
  # Without the start, what the body has is a transfer of each time around.
  blocking = text.replace('AsyncCollectiveStart', 'x')
  assert sorted(each.times for each in found(blocking)) == [1, 1, 5]
  assert not any(each.asynchronous for each in found(blocking))


@pytest.mark.parametrize('fused', [False, True])
def test_what_is_wrapped_is_asynchronous(write, fused):
  entry = [
    P,
    '%s = ((f32[8,128]), f32[32,128]) async-start(%p), calls=%wrapped',
    '%d = f32[32,128] async-done(%s)',
    'ROOT %r = f32[8,128] copy(%p)',
  ]
  wrapped = part('wrapped', None)
  if fused:
    around = wrapped[: wrapped.index('  %g')] + (
      '  ROOT %f = f32[32,128] fusion(%x), kind=kCustom, calls=%inside\n}\n'
    )
    wrapped = part('inside', None) + around
  text = write.program(entry, wrapped)
  (transfer,) = found(text)
  assert transfer.asynchronous


def test_what_is_called_in_an_unknown_way_is_refused(write):
  entry = [
    P,
    '%s = f32[32,128] hand-over(%p), calls=%wrapped',
    'ROOT %r = f32[8,128] copy(%p)',
  ]
  text = write.program(entry, part('wrapped', None))
  with pytest.raises(ValueError, match=r"%s, of opcode 'hand-over', calls wra"):
    found(text)
  assert found(text.replace('hand-over', 'call'))


@pytest.mark.parametrize(
  'kept, kind, wire',
  [
    ('f32[2,128]', 'reduce-scatter', SIZE * 3 / 4),
    ('f32[8,128]', 'all-reduce', 2 * SIZE * 3 / 4),
  ],
)
def test_a_sum_of_which_a_share_is_kept(write, kept, kind, wire):
  fused = (
    f'%fused (x: f32[8,128]) -> {kept} {{\n'
    '  %x = f32[8,128]{1,0} parameter(0)\n'
    f'  %g = f32[8,128]{{1,0}} all-reduce(%x), {GROUPS}, to_apply=%sum\n'
    f'  ROOT %k = {kept} dynamic-slice(%g), dynamic_slice_sizes={{2,128}}\n}}\n'
  )
  entry = [
    P,
    f'%c = {kept} fusion(%p), kind=kCustom, calls=%fused',
    'ROOT %r = f32[8,128] copy(%p)',
  ]
  (transfer,) = found(write.program(entry, fused))
  assert (transfer.kind, transfer.wire_bytes) == (kind, wire)


@pytest.mark.parametrize(
  'kind, called', [('call', 'to_apply'), ('async', 'calls')]
)
def test_a_sum_that_is_handed_to_other_cores(write, kind, called):
  """As libtpu 0.0.50.1 writes it for tpu7x: the sum has an estimate, too."""
  handed = (
    '%add (x: f32[], y: f32[]) -> f32[] {\n'
    '  %x = f32[] parameter(0)\n  %y = f32[] parameter(1)\n'
    f'  ROOT %z = f32[] add(%x, %y), {write.estimate(1485)}\n'
    '}, execution_thread="sparsecore"\n\n'
    '%called (s: f32[8,128]) -> f32[2,128] {\n'
    '  %s = f32[8,128] parameter(0)\n'
    f'  ROOT %g = f32[2,128] reduce-scatter(%s), {GROUPS}, to_apply=%add\n'
    '}, execution_thread="sparsecore"\n'
  )
  entry = [
    P,
    f'%s = ((), f32[2,128]) {kind}-start(), {called}=%called',
    f'%u = ((), f32[2,128]) {kind}-update(%s)',
    f'%d = f32[2,128] {kind}-done(%u)',
    f'ROOT %r = f32[8,128] copy(%p), {write.estimate(7)}',
  ]
  module = hlo.parse(write.program(entry, handed))
  runs = schedule.executed(module)
  assert schedule.cycles(runs) == 7
  (transfer,) = collectives.transfers(module, runs, 8)
  assert transfer.wire_bytes == SIZE * 3 / 4 and transfer.asynchronous
  # That it is started and done takes no time.
  assert all(
    work.takes_no_time(module, run.instruction)
    for run in runs
    if run.instruction.opcode.startswith(f'{kind}-')
  )


@pytest.mark.parametrize(
  'groups, size',
  [
    ('replica_groups={{0,1,2},{3,4,5}}', 3),
    ('replica_groups={}', 8),
    ('replica_groups=[2,4]<=[4,2]T(1,0)', 4),
    ("replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}", 4),
    ("replica_groups=mesh['a'=2,'b'=4], device_ids=([8]) {'a','b'}", 8),
    ("replica_groups=mesh['a'=8] {'a':(2)4}", 4),
  ],
)
def test_sizes_of_groups(write, groups, size):
  entry = [
    P,
    f'%c = f32[8,128] all-reduce(%p), {groups}, dimensions={{0}}',
    'ROOT %r = f32[8,128] copy(%p)',
  ]
  (transfer,) = found(write.program(entry))
  assert transfer.group == size


@pytest.mark.parametrize(
  'groups', ['', 'replica_groups=all', "replica_groups=mesh['a'=8] {'b'}"]
)
def test_groups_that_are_not_understood_are_refused(write, groups):
  entry = [P, f'ROOT %c = f32[8,128] all-reduce(%p), channel_id=1, {groups}']
  with pytest.raises(ValueError, match='%c has groups that are not understood'):
    found(write.program(entry))


# As libtpu 0.0.50.1 writes it for two slices.
RUNTIME = (
  'is_host_transfer=true, frontend_attributes={{_xla_host_transfer_handler_name'
  '="xla_megascale_runtime",_xla_megascale_target="{target}",'
  '_xla_megascale_transfer_type="{kind}"}}'
)


def handed(kind='ALL_REDUCE', target='{1,2}x{0:3}', between=()):
  """A program that hands a part to the runtime, and waits for it."""
  attributes = 'channel_id=7, ' + RUNTIME.format(kind=kind, target=target)
  shape = '(f32[8,128]{1,0}, u32[], token[])'
  return [
    P,
    '%t = token[] after-all()',
    f'%s = {shape} send(%p, %t), {attributes}',
    f'%v = {shape} recv(%t), {attributes}',
    *between,
    '%w = (f32[8,128]{1,0}, token[]) recv-done(%v), channel_id=7',
    '%x = token[] send-done(%s), channel_id=7',
    'ROOT %r = f32[8,128] get-tuple-element(%w), index=0',
  ]


@pytest.mark.parametrize(
  'kind, target, told, wire',
  [
    ('ALL_REDUCE', '{1,2}x{0:3}', 'all-reduce', SIZE),
    ('ALL_REDUCE', '{1:4}x{0:3}', 'all-reduce', 2 * SIZE * 3 / 4),
    ('ALL_GATHER', '{1:4}x{0}', 'all-gather', 3 * SIZE),
    ('REDUCE_SCATTER', '{1,3}x{0}', 'reduce-scatter', SIZE / 2),
    ('ONE_TO_ONE', '{1,2}x{0}', 'collective-permute', SIZE),
  ],
)
def test_what_slices_send_each_other(write, kind, target, told, wire):
  (transfer,) = found(write.program(handed(kind, target)))
  assert (transfer.kind, transfer.wire_bytes) == (told, wire)
  assert transfer.across and not transfer.asynchronous


def test_slices_send_beside_what_is_computed_meanwhile(write):
  work = f'%n = f32[8,128]{{1,0}} negate(%p), {write.estimate(100)}'
  (transfer,) = found(write.program(handed(between=[work])))
  assert transfer.asynchronous


def test_what_another_receives_is_not_waited_for(write):
  """Work behind another transfer's end is still before this one's."""
  other = '%o = (f32[8,128]{1,0}, token[]) recv-done(%v), channel_id=8'
  work = f'%n = f32[8,128]{{1,0}} negate(%p), {write.estimate(100)}'
  (transfer,) = found(write.program(handed(between=[other, work])))
  assert transfer.asynchronous


def test_slices_send_each_time_around(write):
  lines = handed()[1:-1]
  inner = '\n'.join(f'  {line}' for line in lines).replace('%p', '%x,')
  inner = inner.replace('%x,,', '%x,').replace('%x = ', '%done = ')
  text = write.program(write.loop_entry, write.loop(5, inner=inner))
  (transfer,) = found(text)
  assert (transfer.times, transfer.wire_bytes) == (5, SIZE)


def test_another_send_to_the_host_is_refused(write):
  with pytest.raises(ValueError, match='hands %s to the host'):
    found(write.program(handed(kind='OUTFEED')))
