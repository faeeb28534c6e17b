"""Seconds of programs that can be added up by hand."""

import math

import pytest

from imagen_jax.precompile import hlo
from imagen_jax.precompile import model
from imagen_jax.precompile import schedule
from imagen_jax.precompile import topology
from imagen_jax.precompile import work

POD = topology.parse('v5e:2x2')
CHIP = POD.chip
P = '%p = f32[8,128]{1,0} parameter(0)'
SIZE = 8 * 128 * 4


def fused(name, body, result='f32[8,128]'):
  lines = '\n'.join(f'  {line}' for line in body)
  return (
    f'%{name} (x: f32[8,128]) -> {result} {{\n'
    f'  %x = f32[8,128] parameter(0)\n{lines}\n}}\n'
  )


BODIES = {
  'matrix units': [
    '%c = f32[8,128] convolution(%x, %x), dim_labels=bf_io->bf',
    '%zero = f32[] constant(0)',
    '%r = f32[8] reduce(%c, %zero), dimensions={1}, to_apply=%sum',
    'ROOT %b = f32[8,128] broadcast(%r), dimensions={0}',
  ],
  'norms and reductions': [
    '%zero = f32[] constant(0)',
    '%r = f32[8] reduce(%x, %zero), dimensions={1}, to_apply=%sum',
    'ROOT %b = f32[8,128] broadcast(%r), dimensions={0}',
  ],
  'element-wise': ['ROOT %n = f32[8,128] negate(%x)'],
  'copies': ['ROOT %t = f32[8,128] transpose(%x), dimensions={1,0}'],
}


def one_fusion(write, kind, cycles):
  entry = [
    P,
    'ROOT %f = f32[8,128] fusion(%p), kind=kLoop, calls=%inside, '
    + write.estimate(cycles),
  ]
  return hlo.parse(write.program(entry, fused('inside', BODIES[kind])))


@pytest.mark.parametrize('kind', BODIES)
def test_categories(write, kind):
  time = model.step_time(one_fusion(write, kind, 300_000), POD, 4)
  expected = dict.fromkeys(work.CATEGORIES[:-1], 0.0)
  assert time.pess == expected | {kind: pytest.approx(300_000 / CHIP.clock)}
  roofline = 2 * SIZE / CHIP.hbm_bandwidth
  if kind == 'matrix units':
    roofline = 300_000 / CHIP.clock
  assert time.opt[kind] == pytest.approx(roofline)
  low, mid, high = time.computing
  assert mid == pytest.approx(math.sqrt(low * high))


def test_what_a_loop_does_counts_each_time_around(write):
  """By estimates, by bytes, by what has no estimate, and by what is sent."""
  inner = '  %m = f32[8,128] negate(%x)\n'
  inner += '  %c = f32[8,128] all-reduce(%x), replica_groups={}'
  loop = write.loop(5, cycles=300_000, inner=inner)
  time = model.step_time(
    hlo.parse(write.program(write.loop_entry, loop)), POD, 4
  )
  moved = 2 * SIZE / CHIP.hbm_bandwidth
  # The counter's own numbers are five bytes or so each.
  small = pytest.approx(0, abs=1e-9)
  assert time.pess['element-wise'] - 5 * (300_000 / CHIP.clock + moved) == small
  assert time.opt['element-wise'] - 5 * 2 * moved == small
  assert time.unestimated - 5 * moved == small
  assert time.sending == pytest.approx(
    5 * 2 * SIZE * 3 / 4 / CHIP.ici_bandwidth
  )


def test_a_fusion_that_computes_while_it_sends_is_not_a_collective(write):
  body = [
    '%g = f32[8,128] all-reduce(%x), channel_id=1, replica_groups={}',
    'ROOT %n = f32[8,128] negate(%g)',
  ]
  entry = [
    P,
    'ROOT %f = f32[8,128] fusion(%p), kind=kLoop, calls=%inside, '
    + write.estimate(300_000),
  ]
  module = hlo.parse(write.program(entry, fused('inside', body)))
  time = model.step_time(module, POD, 4)
  assert time.pess['element-wise'] == pytest.approx(300_000 / CHIP.clock)


@pytest.mark.parametrize(
  'opcode', ['reduce-window', 'select-and-scatter', 'sort']
)
def test_other_reductions(write, opcode):
  body = [f'ROOT %r = f32[8,128] {opcode}(%x), to_apply=%sum']
  entry = [P, 'ROOT %f = f32[8,128] fusion(%p), kind=kLoop, calls=%inside']
  module = hlo.parse(write.program(entry, fused('inside', body)))
  assert work.category(module, module.entry.root) == 'norms and reductions'


def test_the_memory_makes_nothing_slower_than_its_estimate(write):
  time = model.step_time(one_fusion(write, 'copies', 1), POD, 4)
  assert time.opt == time.pess


def test_in_a_fusion_in_a_fusion(write):
  outer = [
    'ROOT %f = f32[8,128] fusion(%x), kind=kOutput, calls=%inside',
  ]
  entry = [
    P,
    'ROOT %g = f32[8,128] fusion(%p), kind=kOutput, calls=%outer, '
    + write.estimate(5),
  ]
  text = write.program(
    entry, fused('inside', BODIES['matrix units']), fused('outer', outer)
  )
  time = model.step_time(hlo.parse(text), POD, 4)
  assert time.pess['matrix units'] > 0


def test_what_has_no_estimate_takes_the_time_of_its_bytes(write):
  entry = [P, 'ROOT %n = f32[8,128] negate(%p)']
  time = model.step_time(hlo.parse(write.program(entry)), POD, 4)
  assert time.unestimated == pytest.approx(2 * SIZE / CHIP.hbm_bandwidth)
  assert time.pess['element-wise'] == time.unestimated


def test_names_and_prefetches_take_none(write):
  entry = [
    P,
    '%s = (f32[8,128], f32[8,128], u32[]) copy-start(%p)',
    '%d = f32[8,128]{1,0:S(1)} copy-done(%s)',
    '%t = (f32[8,128]) tuple(%d)',
    'ROOT %g = f32[8,128] get-tuple-element(%t), index=0',
  ]
  time = model.step_time(hlo.parse(write.program(entry)), POD, 4)
  assert time.computing == (0, 0, 0)


def test_a_kernel_without_an_estimate_is_refused(write):
  entry = [
    P,
    'ROOT %k = f32[8,128] custom-call(%p), custom_call_target="my_kernel"',
  ]
  with pytest.raises(ValueError, match="kernel 'my_kernel'.*no estimate"):
    model.step_time(hlo.parse(write.program(entry)), POD, 4)


def collective(write, suffix):
  entry = [
    P,
    f'%n = f32[8,128] negate(%p), {write.estimate(300_000)}',
    f'%c = f32[8,128] all-reduce{suffix}(%p), replica_groups={{}}',
    'ROOT %r = f32[8,128] get-tuple-element(%n), index=0',
  ]
  return hlo.parse(write.program(entry))


def test_collectives_that_block_and_those_that_do_not(write):
  wire = 2 * SIZE * 3 / 4
  sending = pytest.approx(wire / CHIP.ici_bandwidth)
  blocking = model.step_time(collective(write, ''), POD, 4)
  beside = model.step_time(collective(write, '-start'), POD, 4)
  assert blocking.sending == beside.sending == sending
  assert blocking.blocking == sending and beside.blocking == 0
  assert beside.scheduled == pytest.approx(beside.computing)
  for place in (0, 2):
    assert blocking.scheduled[place] == pytest.approx(
      blocking.computing[place] + blocking.sending
    )
  # All of it blocks, and none is left to hide: what is exposed is scheduled.
  assert blocking.exposed == pytest.approx(blocking.scheduled[1])
  assert beside.exposed == pytest.approx(blocking.exposed)
  assert beside.traffic['all-reduce'] == model.Traffic(wire, wire, 1)
  assert blocking.traffic['all-reduce'] == model.Traffic(wire, 0, 1)
  assert sum(blocking.pess.values()) == pytest.approx(300_000 / CHIP.clock)


def test_what_is_sent_for_longer_than_is_computed_shows():
  time = model.StepTime({'copies': 4.0}, {'copies': 1.0}, {}, 0.0, 9.0, 0.0)
  assert time.overlapped == 9.0
  assert time.scheduled == (1.0, 2.0, 4.0)
  assert time.exposed == math.sqrt((1 + 9) * (4 + 9))


@pytest.mark.parametrize('kernel', ['ZeroCrop', 'ConcatBitcast'])
def test_a_kernel_that_only_moves_is_told_by_its_bytes(write, kernel):
  entry = [
    P,
    f'%k = f32[8,128] custom-call(%p), custom_call_target="{kernel}"',
    'ROOT %s = u32[] custom-call(), custom_call_target="SliceId"',
  ]
  time = model.step_time(hlo.parse(write.program(entry)), POD, 4)
  assert time.unestimated == pytest.approx(2 * SIZE / CHIP.hbm_bandwidth)
  assert sum(time.pess.values()) == time.unestimated


def test_what_the_runtime_sends_goes_over_the_network(write):
  sent = 'channel_id=7, frontend_attributes={_xla_megascale_target="{1,2}x{0}",'
  sent += '_xla_megascale_transfer_type="ALL_REDUCE"}'
  entry = [
    P,
    f'%s = (f32[8,128], u32[], token[]) send(%p), {sent}',
    f'%v = (f32[8,128], u32[], token[]) recv(), {sent}',
    'ROOT %w = (f32[8,128], token[]) recv-done(%v), channel_id=7',
  ]
  two = topology.parse('v5e:2x1', 2)
  # Of two, far less than a slice has: the group does not say it.
  time = model.step_time(hlo.parse(write.program(entry)), two, 4)
  assert time.sending == pytest.approx(SIZE / CHIP.dcn_bandwidth)
  assert time.blocking == time.sending
  assert sum(time.pess.values()) == 0


def test_between_slices_the_network_is_slower(write):
  two = topology.parse('v5e:2x1', 2)
  time = model.step_time(collective(write, ''), two, 4)
  wire = 2 * SIZE * 3 / 4
  assert time.sending == pytest.approx(wire / CHIP.dcn_bandwidth)


SLICES = {
  # Reads and writes a quarter, though its operand is whole.
  'ROOT %s = f32[2,128] dynamic-slice(%x, %i), dynamic_slice_sizes={2,128}': (
    SIZE / 2
  ),
  # Reads and writes the update, which is computed of the operand.
  'ROOT %s = f32[8,128] dynamic-update-slice(%x, %y, %i)': SIZE / 2,
  'ROOT %s = f32[8,128] negate(%x)': 2 * SIZE,
}


@pytest.mark.parametrize('line', SLICES)
def test_of_what_is_sliced_the_slice_is_moved(write, line):
  body = (
    '%inside (x: f32[8,128], y: f32[2,128]) -> f32[8,128] {\n'
    '  %x = f32[8,128] parameter(0)\n  %i = s32[] constant(0)\n'
  )
  extra = ''
  if '%y' in line:
    body += '  %y = f32[2,128] parameter(1)\n'
    extra = ', %q'
  body += f'  {line}\n}}\n'
  entry = [
    P,
    '%q = f32[2,128] parameter(1)',
    f'ROOT %f = f32[8,128] fusion(%p{extra}), kind=kLoop, calls=%inside',
  ]
  module = hlo.parse(write.program(entry, body))
  run = schedule.executed(module)[-1]
  assert work.moved_bytes(module, run) == SLICES[line]


@pytest.mark.parametrize(
  'line, size',
  [
    ('dynamic-slice(%p, %i), dynamic_slice_sizes={2,128}', SIZE / 2),
    ('slice(%p), slice={[0:2], [0:128]}', SIZE / 2),
  ],
)
def test_a_slice_by_itself_is_read_and_written(write, line, size):
  entry = [P, '%i = s32[] constant(0)', f'ROOT %s = f32[2,128] {line}']
  module = hlo.parse(write.program(entry))
  assert work.moved_bytes(module, schedule.executed(module)[-1]) == size


def test_what_a_fusion_hands_on_is_not_written(write):
  body = [
    '%n = f32[8,128] negate(%x)',
    'ROOT %t = (f32[8,128], f32[8,128]) tuple(%n, %x)',
  ]
  entry = [
    P,
    'ROOT %f = (f32[8,128], f32[8,128]) fusion(%p), kind=kLoop, calls=%inside',
  ]
  text = write.program(entry, fused('inside', body, '(f32[8,128], f32[8,128])'))
  module = hlo.parse(text)
  assert work.moved_bytes(module, schedule.executed(module)[-1]) == 2 * SIZE


def test_the_dearest_parts_come_first(write):
  entry = [
    P,
    '%a = f32[8,128] negate(%p), metadata={op_name="jit(train_step)/a/mul"}, '
    + write.estimate(10),
    'ROOT %b = f32[8,128] copy(%a), metadata={op_name="jit(train_step)/b"}, '
    + write.estimate(30),
  ]
  found = model.dearest(hlo.parse(write.program(entry)), POD, 2)
  assert [each[:2] for each in found] == [
    ('b', 'copies'),
    ('a/mul', 'element-wise'),
  ]
  assert found[0][2] == pytest.approx(30 / CHIP.clock)


def test_images_a_second():
  assert model.images_per_second(64, 2.0, 4) == 8
