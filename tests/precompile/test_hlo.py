"""Each trap of reading a scheduled program, in the smallest that has it."""

import pytest

from imagen_jax.precompile import hlo
from imagen_jax.precompile import schedule

P = '%p = f32[8,128]{1,0:T(8,128)} parameter(0)'


def cycles(text):
  return schedule.cycles(schedule.executed(hlo.parse(text)))


@pytest.mark.parametrize(
  'shape, size',
  [
    ('f32[]', 4),
    ('bf16[3,5]{1,0:T(8,128)(2,1)S(1)}', 30),
    ('pred[7]', 7),
    ('s4[3]', 2),
    ('f8e4m3fn[4]', 4),
    ('c64[2]', 16),
    ('(f32[2]{0}, /*index=1*/(s32[], bf16[4]{0}), token[])', 20),
    ('f32[<=8]', 32),
  ],
)
def test_bytes_of_a_shape(shape, size):
  assert hlo.size(shape) == size


def test_an_unknown_type_is_refused():
  with pytest.raises(ValueError, match="a type 'quaternion'"):
    hlo.size('quaternion[2]')


def test_cycles_are_added_up(write):
  entry = [
    P,
    f'%a = f32[8,128]{{1,0}} negate(%p), {write.estimate(70)}',
    f'ROOT %b = f32[8,128]{{1,0}} copy(%a), {write.estimate(5)}',
  ]
  assert cycles(write.program(entry)) == 75


def test_an_instruction_over_several_lines(write):
  """As kernels are printed, with text of their own that looks like HLO."""
  kernel = (
    '%a = f32[8,128]{1,0} custom-call(%p), custom_call_target="tpu_kernel", '
    'metadata={op_name="first\n'
    '}\n'
    '  %b = f32[] add(%x, \\"quoted)\n'
    f'last"}}, {write.estimate(70)}'
  )
  entry = [P, kernel, f'ROOT %c = f32[8,128] copy(%a), {write.estimate(5)}']
  module = hlo.parse(write.program(entry))
  assert list(module.entry.instructions) == ['p', 'a', 'c']
  assert schedule.cycles(schedule.executed(module)) == 75


def test_a_shape_that_is_a_tuple(write):
  entry = [
    P,
    (
      '%a = (f32[8,128]{1,0:T(8,128)S(1)}, /*index=1*/(s32[], u32[]{:S(2)})) '
      f'custom-call(%p, /*index=1*/%p), custom_call_target="x", '
      f'{write.estimate(3)}'
    ),
    'ROOT %b = f32[8,128] get-tuple-element(%a), index=0',
  ]
  instruction = hlo.parse(write.program(entry)).entry.instructions['a']
  assert instruction.opcode == 'custom-call'
  assert instruction.inputs() == ['p', 'p']
  assert hlo.size(instruction.shape) == 8 * 128 * 4 + 4 + 4


def test_a_loop_goes_round_as_often_as_its_condition_says(write):
  assert cycles(write.program(write.loop_entry, write.loop(5))) == 500
  assert cycles(write.program(write.loop_entry, write.loop(5, step=2))) == 300


def test_a_loop_starts_where_its_counter_does(write):
  entry = [
    line.replace('constant(0)', 'constant(2)') for line in write.loop_entry
  ]
  assert cycles(write.program(entry, write.loop(5))) == 300
  assert cycles(write.program(entry, write.loop(6, step=3))) == 200
  assert cycles(write.program(entry, write.loop(1))) == 0


def test_a_loop_is_tested_once_more_than_it_goes_round(write):
  test = 'compare(%j, %limit), direction=LT'
  loop = write.loop(5).replace(test, f'{test}, {write.estimate(3)}')
  text = write.program(write.loop_entry, loop)
  assert cycles(text) == 500 + 6 * 3


def test_a_loop_goes_round_as_often_as_is_stated(write):
  entry = list(write.loop_entry)
  entry[4] += ', backend_config={"known_trip_count":{"n":"7"}}'
  assert cycles(write.program(entry, write.loop(direction='NE'))) == 700


def test_a_bound_that_is_carried_through_the_loop(write):
  loop = """\
%body (s: (s32[], s32[], s32[])) -> (s32[], s32[], s32[]) {
  %s = (s32[], s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] get-tuple-element(%s), index=1
  %one = s32[] get-tuple-element(%s), index=2
  %next = s32[] add(%one, %i), CYCLES
  ROOT %out = (s32[], s32[], s32[]) tuple(%next, %n, %one)
}

%condition (c: (s32[], s32[], s32[])) -> pred[] {
  %c = (s32[], s32[], s32[]) parameter(0)
  %j = s32[] get-tuple-element(%c), index=0
  %m = s32[] get-tuple-element(%c), index=1
  ROOT %less = pred[] compare(%j, %m), direction=LT
}
""".replace('CYCLES', write.estimate(10))
  entry = [
    P,
    '%zero = s32[] constant(0)',
    '%four = s32[] constant(4)',
    '%unit = s32[] constant(1)',
    '%state = (s32[], s32[], s32[]) tuple(%zero, %four, %unit)',
    (
      '%while = (s32[], s32[], s32[]) while(%state), condition=%condition, '
      'body=%body'
    ),
    'ROOT %q = f32[8,128] copy(%p)',
  ]
  assert cycles(write.program(entry, loop)) == 40
  changed = loop.replace('tuple(%next, %n, %one)', 'tuple(%next, %n, %next)')
  with pytest.raises(ValueError, match='no trip count'):
    cycles(write.program(entry, changed))


def test_a_loop_in_a_loop(write):
  """The inner one is the outer one's body once more, under other names."""
  inner = write.loop(3, cycles=10)
  for name in ('body', 'condition'):
    inner = inner.replace(f'%{name}', f'%inner_{name}')
  within = """\
  %zero = s32[] constant(0)
  %state = (s32[], f32[8,128]) tuple(%zero, %x)
  %while = (s32[], f32[8,128]) while(%state), condition=%inner_condition, \
body=%inner_body"""
  outer = write.loop(5, inner=within)
  text = write.program(write.loop_entry, inner, outer)
  assert cycles(text) == 5 * (100 + 3 * 10)


@pytest.mark.parametrize(
  'change',
  [
    ('direction=LT', 'direction=NE'),
    ('constant(5)', 'partition-id()'),
    ('%start = s32[] copy(%zero)', '%start = s32[] partition-id()'),
    ('add(%copied, %one)', 'multiply(%copied, %one)'),
    ('constant(1)', 'constant(-1)'),
  ],
)
def test_a_loop_of_unknown_length_is_refused(write, change):
  text = write.program(write.loop_entry, write.loop())
  assert change[0] in text
  with pytest.raises(ValueError, match='%while has no trip count'):
    cycles(text.replace(*change))


BRANCHES = """\
%cheap (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128] parameter(0)
  ROOT %n = f32[8,128] negate(%x), CHEAP
}

%dear (y: f32[8,128]) -> f32[8,128] {
  %y = f32[8,128] parameter(0)
  ROOT %m = f32[8,128] negate(%y), DEAR
}
"""


@pytest.mark.parametrize(
  'named',
  [
    'branch_computations={%cheap, %dear}',
    'true_computation=%dear, false_computation=%cheap',
  ],
)
def test_of_a_conditional_the_dearest_branch_counts(write, named):
  branches = BRANCHES.replace('CHEAP', write.estimate(2))
  branches = branches.replace('DEAR', write.estimate(30))
  entry = [
    P,
    '%which = s32[] constant(0)',
    f'ROOT %c = f32[8,128] conditional(%which, %p, %p), {named}',
  ]
  assert cycles(write.program(entry, branches)) == 30


def test_what_is_called_counts(write):
  branches = BRANCHES.replace('CHEAP', write.estimate(2))
  branches = branches.replace('DEAR', write.estimate(30))
  entry = [
    P,
    '%a = f32[8,128] call(%p), to_apply=%cheap',
    '%b = ((f32[8,128]), f32[8,128], u32[]) async-start(%a), calls=%dear',
    'ROOT %c = f32[8,128] async-done(%b)',
  ]
  runs = schedule.executed(hlo.parse(write.program(entry, branches)))
  assert schedule.cycles(runs) == 32
  assert [r.asynchronous for r in runs if r.instruction.cycles] == [False, True]


@pytest.mark.parametrize(
  'line',
  [
    'conditional(%i, %x, %x), branch_computations={%cheap, %dear}',
    'call(%x), to_apply=%dear',
  ],
)
def test_what_a_loop_calls_counts_each_time_around(write, line):
  branches = BRANCHES.replace('CHEAP', write.estimate(2))
  branches = branches.replace('DEAR', write.estimate(30))
  if 'cheap' not in line:
    branches = branches[branches.index('%dear') :]
  loop = write.loop(5, inner=f'  %c = f32[8,128] {line}')
  text = write.program(write.loop_entry, branches, loop)
  assert cycles(text) == 5 * (100 + 30)


def test_an_estimate_that_is_not_executed_is_refused(write):
  branches = BRANCHES.replace('CHEAP', write.estimate(2)).replace('DEAR', '')
  entry = [P, 'ROOT %c = f32[8,128] copy(%p)']
  with pytest.raises(ValueError, match='%n of cheap has an estimate'):
    cycles(write.program(entry, branches))


@pytest.mark.parametrize(
  'change, words',
  [
    # An estimate in a place that is no instruction's.
    (('HloModule', '"estimated_cycles":"9" HloModule'), 'states 2 estimates'),
    # Two in one, of which one would be lost.
    (('"other"', '"estimated_cycles":"9","other"'), 'one of 0 cycles or more'),
    (('"70"', '"-70"'), 'one of 0 cycles or more'),
    # A computation that does not end.
    (('\n}\n', '\n'), 'ends inside a computation'),
    (('ROOT %a', '%a'), 'has no ROOT'),
    (('ENTRY ', ''), 'no ENTRY'),
    (('negate(%p)', 'negate(%p'), 'unclosed parenthesis'),
    (('negate(%p)', 'negate'), 'has no opcode'),
  ],
)
def test_a_text_that_is_not_understood_is_refused(write, change, words):
  entry = [P, f'ROOT %a = f32[8,128] negate(%p), {write.estimate(70)}']
  text = write.program(entry)
  assert cycles(text) == 70
  at = text.rindex(change[0])
  changed = text[:at] + change[1] + text[at + len(change[0]) :]
  with pytest.raises(ValueError, match=words):
    cycles(changed)
